from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from pipelines.store import files
from pipelines.store.files import (
    DamagedFileError,
    on_disk,
    open_arrow_fs,
    read_json,
    read_object,
    write_bytes,
    write_json,
    write_large,
)
from tests.support.full_disk import FullDisk
from weaksam.io.files import join, open_fs


def names_in(folder: str) -> list[str]:
    fs, root = open_fs(folder)
    fs.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in fs.ls(root, detail=False))


def test_a_write_that_fails_names_the_file_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "file.json")
    write_bytes(uri, b"before")
    monkeypatch.setattr(files, "open", FullDisk, raising=False)
    with pytest.raises(OSError, match="No space left on device") as failed:
        write_bytes(uri, b"after")
    assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, uri)
    assert names_in(str(tmp_path)) == ["file.json"]
    assert (tmp_path / "file.json").read_bytes() == b"before"


def test_json_comes_back_and_a_missing_file_is_none(folder: str) -> None:
    uri = join(folder, "_plan.json")
    assert read_json(uri) is None
    value = {"näme": ["x", 1, 2.5, None, True], "empty": {}}
    write_json(uri, value)
    assert read_json(uri) == value
    write_json(uri, [])
    assert read_json(uri) == []
    assert names_in(folder) == ["_plan.json"]


BROKEN = {"empty": b"", "cut": b'{"cut', "not text": b"\xff\xfe", "deep": b"[" * 100_000, "digits": b"1" * 10_000}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_broken_json_is_refused_by_name(folder: str, content: bytes) -> None:
    write_bytes(join(folder, "_plan.json"), content)
    with pytest.raises(DamagedFileError, match=r"_plan\.json: damaged: expected JSON, got .* run `it` again"):
        read_json(join(folder, "_plan.json"), "`it`")


@pytest.mark.parametrize("content", [b"[]", b'"text"', b"7", b"true"])
def test_json_of_another_kind_is_no_object(folder: str, content: bytes) -> None:
    write_bytes(join(folder, "_plan.json"), content)
    with pytest.raises(DamagedFileError, match=r"expected a JSON object, got a (list|str|int|bool)"):
        read_object(join(folder, "_plan.json"))


def test_a_folder_in_the_place_of_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_plan.json").mkdir()
    with pytest.raises(DamagedFileError, match="expected a file, found a folder"):
        read_object(str(tmp_path / "_plan.json"))


def test_an_error_about_damage_survives_the_way_through_a_cluster() -> None:
    error = pickle.loads(pickle.dumps(DamagedFileError("/r/part-0.parquet", "cut", "`weaksam index /r`")))
    expected = "/r/part-0.parquet: damaged: cut. To set it aside and make it again, run `weaksam index /r` again"
    assert (str(error), error.path) == (expected, "/r/part-0.parquet")


def test_arrow_finds_a_bucket_by_the_profile_that_other_reading_uses(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow's own S3 client knows no endpoint of a profile."""
    lines = ["[profile mine]", f"endpoint_url = {os.environ['AWS_ENDPOINT_URL']}", "region = us-east-1"]
    lines += ["aws_access_key_id = test", "aws_secret_access_key = test"]
    (tmp_path / "config").write_text("\n".join(lines))
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    arrow_fs, path = open_arrow_fs(join(bucket, tmp_path.name, "file"))
    with arrow_fs.open_output_stream(path) as stream:
        stream.write(b"content")
    fs, path = open_fs(join(bucket, tmp_path.name, "file"))
    assert fs.cat_file(path) == b"content"
    again, _ = pickle.loads(pickle.dumps((arrow_fs, path)))  # on its way to a worker
    assert again.get_file_info(path).size == 7


def test_a_large_file_is_written_and_read_by_whoever_wants_a_disk(folder: str) -> None:
    uri = join(folder, "large.pt")
    with pytest.raises(FileNotFoundError), on_disk(uri) as path:
        path.read_bytes()

    def write(file: BinaryIO) -> None:
        file.write(b"one ")
        file.write(memoryview(b"two"))

    write_large(uri, write)
    with on_disk(uri) as path:
        assert path.read_bytes() == b"one two"
    assert names_in(folder) == ["large.pt"]


def test_a_large_file_that_fails_leaves_what_was_there(folder: str) -> None:
    uri = join(folder, "large.pt")
    write_large(uri, lambda file: torch.save({"a": torch.zeros(3)}, file))

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_large(uri, fail)
    assert names_in(folder) == ["large.pt"]
    with on_disk(uri) as path:
        assert torch.load(path, mmap=True)["a"].tolist() == [0, 0, 0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_named_whatever_the_writer_makes_of_it() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        files._fill("/dev/full", lambda file: torch.save({"a": torch.zeros(3)}, file))
