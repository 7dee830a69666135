from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipelines.store.explain import AGAIN, explain, naming, storage_failure
from weaksam.errors import ConfigError, DataError, RunError


def told(error: BaseException) -> str:
    found = explain(error)
    assert found is not None, repr(error)
    assert "\n" not in str(found)
    return str(found)


def caught(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """An error as it is caught: raised, from a cause if there is one."""
    try:
        raise error from cause
    except BaseException as found:
        return found


def while_handling(first: BaseException, second: BaseException) -> BaseException:
    """What a body that failed with the first error leaves, if leaving it fails with the second."""
    try:
        try:
            raise first
        finally:
            raise second
    except BaseException as found:
        return found


OF_DISKS = {
    errno.ENOSPC: ("no space left", "free some space"),
    errno.EDQUOT: ("quota is used up", "free some space"),
    errno.EROFS: ("read-only", "can be written to"),
    errno.EACCES: ("permission denied", "check the owner"),
    errno.EPERM: ("not permitted", "check the owner"),
    errno.ENOENT: ("no such file or folder", "check the path"),
    errno.EISDIR: ("is a folder, but a file", "name a file"),
    errno.ELOOP: ("lead in a circle", "remove the link"),
    errno.ENAMETOOLONG: ("too long", "shorter"),
    errno.EMFILE: ("too many files are open", "ulimit -n"),
    errno.EFBIG: ("larger than the file system", "another disk"),
    errno.EIO: ("input or output error", "check the disk"),
    errno.ESTALE: ("stale handle", "mount it afresh"),
    errno.ENOLCK: (os.strerror(errno.ENOLCK), "run the same command again"),  # one that the table does not know
}


@pytest.mark.parametrize("number", OF_DISKS, ids=errno.errorcode.__getitem__)
def test_an_error_of_the_disk_says_where_what_and_what_to_do(number: int) -> None:
    line = told(OSError(number, os.strerror(number), "/runs/one/recipe.yaml"))
    assert line.startswith("/runs/one/recipe.yaml: ")
    for part in OF_DISKS[number]:
        assert part in line


def test_the_name_is_that_of_the_finished_file_not_of_the_one_being_written() -> None:
    line = told(OSError(errno.ENOSPC, "", "/runs/one/.recipe.yaml.0a1b2c3d"))
    assert line.startswith("/runs/one/recipe.yaml: ")
    assert told(OSError(errno.EACCES, "", b"/runs/one")).startswith("/runs/one: ")
    assert told(OSError(errno.EACCES, "", "/runs/.hidden")).startswith("/runs/.hidden: ")


def test_writing_names_no_file_until_it_is_told_which() -> None:
    with pytest.raises(OSError) as raised, naming("s3://bucket/one"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert told(raised.value).startswith("s3://bucket/one: no space left")
    with pytest.raises(OSError) as raised, naming("/other"):
        raise OSError(errno.ENOSPC, "No space left on device", "/this")
    assert told(raised.value).startswith("/this: ")


def test_what_is_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    wanted = tmp_path / "out" / "index" / "0123"
    with pytest.raises(OSError) as raised:
        wanted.mkdir(parents=True, exist_ok=True)
    assert told(raised.value).startswith(f"{tmp_path / 'out'} is a file, but a folder is needed here; move it away")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileExistsError) as raised_too:
        (tmp_path / "link").mkdir()
    assert told(raised_too.value).startswith(f"{tmp_path / 'link'} is a link that leads nowhere")
    with pytest.raises(FileExistsError) as raised_again:
        tmp_path.mkdir()
    assert told(raised_again.value).startswith(f"{tmp_path}: is there already")


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError) as raised:
        (tmp_path / "a" / "x").read_bytes()
    assert told(raised.value).startswith(f"{tmp_path / 'a' / 'x'}: these links lead in a circle")


def test_the_full_device_is_told(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("only Linux has /dev/full")
    with pytest.raises(OSError) as raised, naming("/dev/full"), open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    assert told(raised.value).startswith("/dev/full: no space left")


def test_the_first_cause_is_told_not_the_second() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/runs/part-0.parquet")
    torn = ValueError("Parquet magic bytes not found in footer")
    of_ours = RunError("/runs/part-0.parquet: damaged; delete it")
    for second in (torn, of_ours):
        assert told(while_handling(full, second)).startswith("/runs/part-0.parquet: no space left")
    assert told(caught(KeyError("x"), caught(torn, full))).startswith("/runs/part-0.parquet: no space left")


def test_an_error_of_ours_says_itself_what_it_was_raised_from() -> None:
    ours = DataError("/data: cannot list this folder (PermissionError); check the address")
    assert explain(caught(ours, PermissionError(errno.EACCES, "", "/data/x"))) is ours
    assert explain(while_handling(KeyError("a.b"), ConfigError("did you mean a.c?"))).args == ("did you mean a.c?",)  # type: ignore[union-attr]


def test_other_libraries_numbers_are_read_from_their_text() -> None:
    arrow = OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert told(arrow).startswith("no space left on this disk (")
    arrow = OSError("Failed to open local file '/runs/part-0.parquet'. Detail: [errno 13] Permission denied")
    assert told(arrow).startswith("/runs/part-0.parquet: permission denied")
    rust = type("SafetensorError", (Exception,), {})("I/O error: No space left on device (os error 28)")
    assert "no space left on this disk" in told(rust)


def test_buckets_raise_without_a_number() -> None:
    assert told(FileNotFoundError("bucket/runs/x")) == (
        "no such file or folder (bucket/runs/x); check the path, and that nobody removes it while the command works"
    )
    assert "permission denied (Access Denied)" in told(PermissionError("Access Denied"))
    client = type("EndpointConnectionError", (Exception,), {"__module__": "botocore.exceptions"})
    keys = type("NoCredentialsError", (Exception,), {"__module__": "botocore.exceptions"})
    expected = f"NoCredentialsError: Unable to locate credentials; mend this, and {AGAIN}"
    assert told(keys("Unable to locate credentials")) == expected
    assert told(client('Could not connect to the endpoint URL: "http://s3:9000/"')).endswith(AGAIN)


def test_a_mistake_in_this_program_is_not_explained() -> None:
    for error in (KeyError("x"), ZeroDivisionError("float division by zero"), AssertionError()):
        assert explain(error) is None
        assert explain(caught(RuntimeError("later"), error)) is None


def test_no_memory_is_told() -> None:
    assert told(MemoryError()).startswith("no memory left; free some")


def test_several_errors_at_once_are_told_by_their_first() -> None:
    group = ExceptionGroup("two", [OSError(errno.ENOSPC, "", "/a"), ValueError("b")])
    assert told(group).startswith("/a: no space left")


def test_only_a_storage_that_fails_as_a_whole_is_given_up_at_once() -> None:
    assert storage_failure(OSError(errno.ENOSPC, ""))
    assert storage_failure(caught(ValueError("torn"), OSError(errno.EROFS, "")))
    assert storage_failure(FileNotFoundError(errno.ENOENT, "")) is None
    assert storage_failure(ConnectionResetError(errno.ECONNRESET, "")) is None
    assert storage_failure(KeyError("x")) is None


def test_what_ray_wraps_is_unwrapped() -> None:
    from ray.data.exceptions import SystemException
    from ray.exceptions import ActorDiedError, NodeDiedError, RayTaskError, UserCodeException
    from ray.train.v2.api.exceptions import WorkerGroupError

    full = OSError(errno.ENOSPC, "No space left on device", "/runs/x")
    task = RayTaskError("write", "Traceback (most recent call last):\n  …", full).as_instanceof_cause()
    assert told(task).startswith("/runs/x: no space left")
    ours = RayTaskError("propose", "Traceback …", DataError("image a: expected b")).as_instanceof_cause()
    assert told(ours) == "image a: expected b"
    assert told(caught(UserCodeException("UDF failed"), full)).startswith("/runs/x: no space left")
    assert explain(caught(UserCodeException("UDF failed"), KeyError("x"))) is None
    assert told(WorkerGroupError("1 worker failed", {0: full})).startswith("/runs/x: no space left")
    assert told(NodeDiedError("the node died: its power was cut")).startswith("Ray: the node died")
    text = "Traceback (most recent call last):\n  …\nweaksam.errors.CheckpointError: vit_b: not downloaded; run x"
    init = ActorDiedError(RayTaskError("__init__", text, KeyError("not kept")))
    assert told(init) == "vit_b: not downloaded; run x"
    init.__cause__ = SystemException()
    assert told(init) == "vit_b: not downloaded; run x"
    bug = ActorDiedError(RayTaskError("__init__", "Traceback (most recent call last):\n  …\nKeyError: 'x'", KeyError()))
    assert explain(bug) is None
