import errno
import hashlib
import os
import sys
from pathlib import Path

import psutil
import pytest

from pipelines.cli import doctor, storage_checks
from tests.support.listening import SETTINGS, server
from tests.support.s3_server import s3_server
from weaksam.io.builtin_weights import Builtin
from weaksam.io.files import open_fs

LOCK = """\
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:00
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:00
    # via torch==1.0
ray==2.60.0
"""


def test_every_line_has_a_detail_and_every_complaint_a_remedy(tmp_path: Path) -> None:
    checks = doctor.run_doctor(str(tmp_path))
    assert len({check.name for check in checks}) == len(checks) == 14
    assert all(check.detail and (check.state == "ok" or check.remedy) for check in checks)
    assert [check.state for check in checks if check.name in ("Python", "packages", "OpenCV", "access", "writing")] == [
        "ok"
    ] * 5


def test_a_lock_file_may_pin_one_version_for_each_python() -> None:
    assert doctor.locked_versions(LOCK) == {"numpy": {"2.4.6", "2.5.5"}, "ray": {"2.60.0"}}
    assert doctor.locked_versions("") == {}


def test_versions_other_than_the_locked_ones_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("ray==1.0\n")
    check = doctor.package_versions(lock)
    assert check.state == "warn"
    assert "instead of 1.0" in check.detail
    assert doctor.package_versions(tmp_path / "none").state == "ok"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("flags : fpu avx2 avx512f avx512_bf16 amx_bf16", "AVX2, AVX-512, bf16, AMX bf16", id="server"),
        pytest.param("Features : fp asimd bf16", "bf16", id="ARM"),
        pytest.param("flags : fpu sse4_2", "without AVX2 or bf16", id="old"),
        pytest.param("", "without AVX2 or bf16", id="empty"),
    ],
)
def test_vector_instructions_are_named(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert doctor.cpu_instructions(tmp_path / "cpuinfo").detail.endswith(expected)


def test_a_temp_folder_that_cannot_be_used_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "none"))
    assert doctor.temporary_disk().state == "fail"
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert str(tmp_path) in doctor.temporary_disk().detail


def test_a_cluster_that_answers_is_told_from_one_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert doctor.ray_cluster().state == "ok"
    with server(SETTINGS) as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert doctor.ray_cluster().detail == f"RAY_ADDRESS={address} answers"
    for name in (address, "127.0.0.1:99999", "ray://", f"ray://{address}", f"http://{address}"):
        monkeypatch.setenv("RAY_ADDRESS", name)
        check = doctor.ray_cluster()
        assert (check.state, "unset RAY_ADDRESS" in check.remedy) == ("fail", True)
    monkeypatch.setattr(psutil, "process_iter", lambda _: iter(()))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert doctor.ray_cluster().state == "fail"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert doctor.ray_cluster().state == "ok"


def test_a_check_that_cannot_look_does_not_keep_the_others_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def memory() -> doctor.Check:
        raise PermissionError(errno.EACCES, "", "/proc/meminfo")

    monkeypatch.setattr(doctor, "memory", memory)
    found = {check.name: check for check in doctor.run_doctor()}
    assert found["memory"].state == "warn"
    assert "/proc/meminfo: permission denied" in found["memory"].detail
    assert "Python" in found
    assert "built-in weights" in found


@pytest.mark.parametrize(
    ("environment", "state", "expected"),
    [
        pytest.param({}, "ok", "endpoint AWS, no region set, credentials from nowhere visible", id="none"),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "hush"}, "ok", "the environment", id="keys"
        ),
        pytest.param({"AWS_ACCESS_KEY_ID": "AKIA"}, "fail", "the environment", id="half"),
        pytest.param({"AWS_ROLE_ARN": "arn"}, "ok", "a role's token", id="role"),
        pytest.param(
            {"AWS_ENDPOINT_URL": "http://me:hush@host:9000"}, "ok", "endpoint http://host:9000", id="endpoint"
        ),
    ],
)
def test_s3_settings_are_described_without_their_secrets(
    environment: dict[str, str], state: str, expected: str
) -> None:
    check = storage_checks.s3_settings({"AWS_SHARED_CREDENTIALS_FILE": "/none", **environment})
    assert check.state == state
    assert expected in check.detail
    assert not any(secret in f"{check.detail}{check.remedy}" for secret in ("hush", "AKIA", "arn"))


def test_weights_that_are_missing_or_torn_are_failures(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    sha256 = hashlib.sha256(b"weights").hexdigest()
    weights = {"w": Builtin(package="weaksam", file=str(path), note="", sha256=sha256)}
    assert "found nothing" in doctor.builtin_weights(weights).detail
    path.write_bytes(b"weights")
    assert doctor.builtin_weights(weights).detail == f"w (sha256 {sha256[:12]}…)"
    path.write_bytes(b"weight")
    torn = doctor.builtin_weights(weights)
    assert (torn.state, torn.remedy) == ("fail", "install the package weaksam again")


def test_access_to_folders_and_buckets_is_tried(tmp_path: Path) -> None:
    assert storage_checks.access(str(tmp_path)).state == "ok"
    assert storage_checks.access(str(tmp_path / "none")).state == "fail"
    assert "nosuch" in storage_checks.access("nosuch://x").detail
    with s3_server() as bucket:
        assert storage_checks.access(bucket).detail.startswith(f"{bucket}: 0 entries")
        assert storage_checks.access("s3://another-bucket").state == "fail"
        assert storage_checks.access("s3://another-bucket/x").state == "fail"


def test_a_run_folder_in_a_bucket_is_there_before_its_first_run() -> None:
    with s3_server() as bucket:
        reading, writing = storage_checks.of_place(f"{bucket}/runs/coco")
        assert (reading.state, writing.state) == ("ok", "ok")
        assert reading.detail == f"{bucket}/runs/coco: 0 entries, as of a run folder before its first run"
        with pytest.raises(FileNotFoundError):
            open_fs(bucket)[0].ls(f"{bucket}/runs", refresh=True)  # and nothing is left


def test_a_folder_that_takes_no_file_is_enough_for_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [check.state for check in storage_checks.of_place(str(tmp_path))] == ["ok", "ok"]
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object) -> bool:
        raise OSError(errno.EROFS, "", str(tmp_path))

    monkeypatch.setattr(storage_checks, "create_exclusively", refuse)
    reading, writing = storage_checks.of_place(str(tmp_path))
    assert (reading.state, writing.state) == ("ok", "warn")
    assert "cannot create a file" in writing.detail
    assert "this file system is read-only" in writing.detail
    assert "enough for data to read" in writing.remedy
    assert [check.name for check in storage_checks.of_place(str(tmp_path / "none"))] == ["access"]


def test_no_torch_without_a_gpu() -> None:
    code = "import sys; from pipelines.cli.doctor import run_doctor; run_doctor(); sys.exit('torch' in sys.modules)"
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("torch is asked about the GPUs of this machine")
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
