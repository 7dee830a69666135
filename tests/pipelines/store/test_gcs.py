"""Runs in a bucket of Google's storage; what tables, files and locks do there is in their own tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipelines.cli import storage_checks
from pipelines.store.exclusive import is_exclusive
from pipelines.store.files import open_arrow_fs, write_bytes
from pipelines.store.instances import current_instance
from pipelines.store.lock import Lock
from pipelines.store.schemas import PROPOSALS
from tests.support.gcs_server import gcs_server
from tests.support.patience import PATIENCE_S
from weaksam.io.files import join, list_files, open_fs, read_bytes

FEW = [
    "data.shapes.train=4", "data.shapes.val=0", "data.shapes.test=0", "data.shapes.size=48", "prompts.points_per_side=2",
    "resources.here=true", "resources.rows_per_task=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with gcs_server() as uri:
        yield uri


def test_a_bucket_keeps_a_second_process_out(bucket: str) -> None:
    assert is_exclusive(join(bucket, "one", "_lock"))
    assert [check.state for check in storage_checks.of_place(bucket)] == ["ok", "ok"]
    assert list_files(bucket) == []  # what was tried is gone


def test_images_are_listed_and_read(bucket: str) -> None:
    write_bytes(join(bucket, "photos", "train", "a [1] #%.png"), b"picture")
    assert [(name, stamp.size) for name, stamp in list_files(join(bucket, "photos"))] == [("train/a [1] #%.png", 7)]
    assert read_bytes(join(bucket, "photos", "train", "a [1] #%.png")) == b"picture"
    arrow_fs, path = open_arrow_fs(join(bucket, "photos", "train", "a [1] #%.png"))
    with arrow_fs.open_input_stream(path) as stream:
        assert stream.read() == b"picture"


@pytest.mark.long
def test_a_run_in_a_bucket_goes_on_where_it_stopped(bucket: str) -> None:
    out = join(bucket, "run")

    def propose() -> str:
        settings = [argument for setting in FEW for argument in ("--set", setting)]
        command = ["propose", "grid", "--data", "shapes:", "--out", out, *settings]
        code = "from pipelines.cli.app import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "images 4 = done 4 " in propose()
    instance = current_instance(out, "propose")
    assert instance is not None
    fs, _ = open_fs(out)
    fs.rm_file(instance.table(PROPOSALS).parts()[0])
    assert "1 of 4 images to do" in propose()
    assert "is finished" in propose()
    with Lock(instance.folder, "a test"):
        pass


def test_without_its_client_an_address_is_refused_with_what_to_install() -> None:
    code = "import sys; sys.modules['gcsfs'] = None\nfrom weaksam.io.files import open_fs; open_fs('gs://bucket/x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DataError: gs://bucket/x: expected" in done.stderr
    assert "install gcsfs" in done.stderr
