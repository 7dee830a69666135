"""Places of every kind of storage: a disk, S3 and Google's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gcs_server import gcs_server
from tests.support.s3_server import s3_server
from weaksam.io.files import join


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("store") as uri:
        yield uri


@pytest.fixture(scope="module")
def gcs_bucket() -> Iterator[str]:
    with gcs_server("store") as uri:
        yield uri


@pytest.fixture(params=["disk", "s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that does not exist yet, on disk and in a bucket."""
    buckets = {"s3": "bucket", "gs": "gcs_bucket"}
    root = str(tmp_path)
    if request.param in buckets:
        root = join(request.getfixturevalue(buckets[request.param]), tmp_path.name)
    return join(root, "table [1] #%")
