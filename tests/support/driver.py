"""A command at work in a process of its own, for tests that kill it or what it started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.support.patience import wait_until

# Listens to Ctrl-C though the tests may be a job in the background, which shells start deaf to it.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pipelines.cli.app import main
main()
"""


class Driver(subprocess.Popen[bytes]):
    """``weaksam`` at work; killed when the block ends if it is still there.

    It prints into the file ``log``: Ray's helpers inherit a pipe and may hold it open for a while after the driver's end.
    """

    def __init__(
        self, log: Path, verb: str, recipe: str, run: Path | str, settings: Sequence[str], before: str = ""
    ) -> None:
        """Start it; ``before`` is Python that runs first."""
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        command = [verb, recipe, "--data", "shapes:", "--out", str(run), *arguments]
        self.log = log
        with log.open("w") as file:
            super().__init__(
                [sys.executable, "-c", before + MAIN, *command],
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def __exit__(self, *exc: Any) -> None:
        self.kill()
        super().__exit__(*exc)

    def wait_until(self, happened: Callable[[], Any], every_s: float = 0.05) -> None:
        """Wait for something that this driver will bring about."""

        def happened_in_time() -> object:
            done = happened()
            assert done or self.poll() is None, f"ended too early: {self.log.read_text()}"
            return done

        wait_until(happened_in_time, every_s=every_s, explain=self.log.read_text)

    def process(self, name: str) -> psutil.Process | None:
        """The descendant whose command line begins with or, for binaries, whose program is ``name``."""
        for child in psutil.Process(self.pid).children(recursive=True):
            try:
                command = child.cmdline()
            except psutil.Error:
                continue
            if command and (command[0].startswith(name) or command[0].endswith(f"/{name}")):
                return child
        return None
