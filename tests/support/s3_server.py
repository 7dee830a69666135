"""A real S3 API server on the loopback device (moto), and the environment that points every client at it.

Ray's workers inherit the environment of the process that starts Ray, so the server must run before ``ray.init``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

import fsspec
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server(bucket: str = "weaksam-test") -> Iterator[str]:
    """Start a server with one empty bucket; yields ``s3://bucket`` and puts the environment back afterwards."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")  # never ask a cloud's address for credentials
        urlopen(
            Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        ).close()  # servers of a process share buckets
        fsspec.filesystem("s3").clear_instance_cache()  # clients made earlier point elsewhere
        fsspec.filesystem("s3").mkdir(bucket)
        try:
            yield f"s3://{bucket}"
        finally:
            fsspec.filesystem("s3").clear_instance_cache()
            server.stop()
