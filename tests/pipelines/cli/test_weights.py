import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.cli.weights import list_weights, published_uri, pull_weights
from tests.support.s3_server import s3_server
from tests.support.web_server import web_server
from weaksam.errors import CheckpointError, ConfigError
from weaksam.io import weights
from weaksam.io.file_notes import file_sha256
from weaksam.io.files import open_fs
from weaksam.io.weights import Published


def test_published_weights_are_listed_and_show_up_once_pulled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path))
    assert [row.name for row in list_weights()] == [
        "builtin:sam", "builtin:sam_lite", "builtin:stem", "builtin:clip", "builtin:efficientnet_lite0",
        "builtin:efficientnet_lite2",
        "vit_h", "vit_l", "vit_b", "vit_t", "clip_vit_b_16", "deit_small", "vgg16.torchvision", "resnet50.torchvision",
            "swin_tiny", "swin_large",
    ]  # fmt: skip
    assert all((row.path is None) is not row.name.startswith("builtin:") for row in list_weights())
    assert all(row.sha256 == file_sha256(row.path) for row in list_weights() if row.path)
    with s3_server() as bucket:
        fs, path = open_fs(f"{bucket}/w.pth")
        fs.pipe_file(path, b"weights")
        published = Published(
            uri=f"{bucket}/w.pth", size_bytes=7, sha256=hashlib.sha256(b"weights").hexdigest(), note="here"
        )
        monkeypatch.setitem(weights.PUBLISHED, "vit_b", published)
        pulled = pull_weights("vit_b")
        assert pulled.known
        assert {row.name: row.path for row in list_weights()}["vit_b"] == pulled.path
        fs.copy(path, path.replace("w.pth", "own.pth"))
        assert not pull_weights(f"{bucket}/own.pth").known
        with pytest.raises(CheckpointError, match="expected SHA-256 0000"):
            pull_weights("vit_b", sha256="0" * 64)


def test_a_mirror_is_filled_with_published_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()
    for name in ("w.pth", "own.pth"):
        (tmp_path / "site" / name).write_bytes(b"weights")
    with web_server(tmp_path / "site") as server:
        uri, sha256 = f"{server.uri}/w.pth", hashlib.sha256(b"weights").hexdigest()
        monkeypatch.setitem(weights.PUBLISHED, "vit_b", Published(uri=uri, size_bytes=7, sha256=sha256, note=""))
        mirror = str(tmp_path / "mirror")
        done = CliRunner().invoke(app, ["weights", "pull", "vit_b", "--mirror", mirror])
        assert (done.exit_code, (tmp_path / "mirror" / "w.pth").read_bytes()) == (0, b"weights")
        assert f"copied to {mirror}/w.pth" in done.output.replace("\n", "")
        own = f"{server.uri}/own.pth"
        with pytest.raises(
            ConfigError, match=f"expected one of vit_h, .*, got {own}; a mirror is for published weights"
        ):
            published_uri(own)


def test_an_unknown_name_is_a_missing_file() -> None:
    with pytest.raises(CheckpointError, match="vit_x: expected a weights file, found nothing"):
        pull_weights("vit_x")
