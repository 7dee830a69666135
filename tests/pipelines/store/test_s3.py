"""Propose with data, results and weights in a bucket of a real S3 server, killed and resumed there."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines.products.proposals import ProposalTable
from pipelines.store.instances import Instance, current_instance
from pipelines.store.schemas import PROPOSALS
from tests.support.patience import PATIENCE_S, wait_until
from tests.support.s3_server import s3_server
from weaksam.io.files import join
from weaksam.sam.small import build_small_sam

pytestmark = pytest.mark.ray

IMAGES = 12
ROWS_PER_TASK = 2
SETTINGS = {
    "sam.name": "builtin",
    "prompts.points_per_side": 3,
    # random weights: whatever they propose is kept
    "proposals.min_predicted_iou": 0,
    "proposals.min_stability": 0,
    "resources.rows_per_task": ROWS_PER_TASK,
    "resources.segment_actors": 1,
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``images/`` and ``sam.safetensors``, random weights of the built-in SAM."""
    root = tmp_path_factory.mktemp("s3")
    (root / "images").mkdir()
    for n in range(IMAGES):
        noise = torch.randint(0, 256, (8, 12, 3), generator=torch.Generator().manual_seed(n), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).resize((120, 80)).save(root / "images" / f"{n:02d}.png")
    torch.manual_seed(0)
    save_file(build_small_sam().state_dict(), root / "sam.safetensors")
    return root


@pytest.fixture(scope="module")
def bucket(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket with the same content; downloads are cached in a folder of these tests."""
    with s3_server() as uri, pytest.MonkeyPatch.context() as environment:
        environment.setenv("WEAKSAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        fsspec.filesystem("s3").put(f"{local}/", f"{uri}/", recursive=True)
        yield uri


def _command(source: str, out: str) -> list[str]:
    settings = [*(f"{k}={v}" for k, v in SETTINGS.items()), f"sam.weights={join(source, 'sam.safetensors')}"]
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    data = ["--data", join(source, "images"), "--out", out]
    return [sys.executable, "-c", "from pipelines.cli.app import main; main()", "propose", "grid", *data, *overrides]


def _run(source: str, out: str) -> str:
    done = subprocess.run(_command(source, out), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _rows(run_uri: str) -> dict[str, str]:
    """Return all rows by id, after proving that no id is there twice."""
    propose = current_instance(run_uri, "propose")
    assert propose is not None
    rows = list(ProposalTable(propose).table.iter_rows())
    assert len({row["image_id"] for row in rows}) == len(rows)
    # text, because predicted IoUs may be NaN; floats are written with all their digits
    return {row["image_id"]: repr(row) for row in rows}


@pytest.fixture(scope="module")
def uninterrupted(local: Path, bucket: str) -> dict[str, str]:
    """Rows by id of a run in a local folder over images and weights in the bucket."""
    printed = _run(bucket, str(local / "run"))
    assert f"images {IMAGES} = done {IMAGES} + dropped 0 · duplicates 0" in printed
    return _rows(str(local / "run"))


def test_images_in_a_bucket_become_rows_in_a_local_folder(uninterrupted: dict[str, str]) -> None:
    assert sorted(uninterrupted) == [f"{n:02d}.png" for n in range(IMAGES)]
    assert all("'source': ['grid'" in row for row in uninterrupted.values())


@pytest.mark.long
def test_a_killed_run_in_a_bucket_goes_on_where_it_stopped(
    local: Path, bucket: str, uninterrupted: dict[str, str]
) -> None:
    out = f"{bucket}/run"
    with (
        (local / "driver.log").open("wb") as log,
        subprocess.Popen(_command(str(local), out), stdout=log, stderr=log) as driver,
    ):
        try:
            _wait_for_parts(out, driver, 2)
        finally:
            driver.kill()
    interrupted = current_instance(out, "propose")
    assert interrupted is not None
    assert interrupted.manifest() is None
    before = _parts(interrupted)
    assert 2 <= len(before) < IMAGES // ROWS_PER_TASK

    printed = _run(str(local), out)
    done = rf"images {IMAGES} = done {IMAGES} \(\d+ from before\) \+ dropped 0 · duplicates 0"
    assert re.search(done, printed)
    assert current_instance(out, "propose") == interrupted
    assert _rows(out) == uninterrupted  # wherever images and weights lie, killed or not: the same computation
    assert before.items() <= _parts(interrupted).items()  # what was there has not been written again
    assert "is finished" in _run(str(local), out)


def _wait_for_parts(out: str, driver: subprocess.Popen[bytes], number: int) -> None:
    def there() -> bool:
        assert driver.poll() is None, "the driver ended before it was killed"
        propose = current_instance(out, "propose")
        return propose is not None and len(propose.table(PROPOSALS).parts()) >= number

    wait_until(there)


def _parts(instance: Instance) -> dict[str, str]:
    """Return the entity tag of each file of a table in a bucket."""
    fs = fsspec.filesystem("s3")
    return {path: fs.info(path, refresh=True)["ETag"] for path in instance.table(PROPOSALS).parts()}
