"""Runs of a recipe in a bucket: one that is killed again and again, and one that is not, which must be the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.products.measured import Evaluation
from pipelines.registry import product_of
from pipelines.store.identities import identities
from pipelines.store.instances import finished_instance
from pipelines.training.trained import Steps, Trained
from tests.support.dying import weaksam
from tests.support.s3_server import s3_server
from tools.compare_runs import compare_weights
from weaksam.io.files import join, read_bytes


@dataclass(frozen=True, kw_only=True)
class KilledRuns:
    """Run folders of the same recipe on drawn images."""

    killed: str
    undisturbed: str

    def rows_are_once_and_the_same(self, name: str, *, images: int, before: int) -> list[str]:
        """Look at a table of a row an image, of which some were finished before the kill; return its rows as text, by id."""
        proof = f"images {images} = done {images} ({before} from before) + dropped 0 · duplicates 0"
        told = product_of(finished_instance(self.killed, name)).facts.text
        assert proof in told, told
        rows = _rows(self.killed, name)
        assert len(rows) == images
        assert rows == _rows(self.undisturbed, name)
        return rows

    def weights_are_the_same(self, name: str, *, steps: int, resumed_at: int) -> None:
        """Look at a training that went on from a checkpoint."""
        killed, undisturbed = (_trained(run, name) for run in (self.killed, self.undisturbed))
        assert killed.facts.steps == Steps(planned=steps, done=steps, resumed_at=resumed_at)
        compared, differences = compare_weights(
            *(read_bytes(of.instance.file(of.weights_file)) for of in (killed, undisturbed))
        )
        assert compared
        assert differences == []

    def figures_are_the_same(self, name: str) -> None:
        """Look at what an evaluation measured."""
        killed, undisturbed = (product_of(finished_instance(run, name)) for run in (self.killed, self.undisturbed))
        assert isinstance(killed, Evaluation)
        assert isinstance(undisturbed, Evaluation)
        assert killed.read()
        assert killed.read() == undisturbed.read()


@contextmanager
def killed_runs(folder: Path, recipe: str, deaths: Sequence[dict[str, object]]) -> Iterator[KilledRuns]:
    """Run a recipe on drawn images in a loopback bucket, killed at each of some moments (``dying``), and once not."""
    (folder / "recipe.yaml").write_text(recipe)
    with s3_server("killed") as bucket:
        runs = KilledRuns(killed=join(bucket, "run"), undisturbed=join(bucket, "undisturbed"))
        command = ["run", str(folder / "recipe.yaml"), "--data", "shapes:", "--out"]
        for dying in deaths:
            weaksam(*command, runs.killed, dying=dying)
        weaksam(*command, runs.killed)
        weaksam(*command, runs.undisturbed)
        yield runs


def _rows(run: str, name: str) -> list[str]:
    """The rows of a table as text, by id, after a look that none is there twice."""
    product = product_of(finished_instance(run, name))
    found = identities(product.instance.table(product.schema))
    assert found.group_by(["image_id", "input"]).aggregate([]).num_rows == found.num_rows
    return [repr(row) for row in sorted(product.table.iter_rows(), key=lambda row: row["image_id"])]


def _trained(run: str, name: str) -> Trained:
    product = product_of(finished_instance(run, name))
    assert isinstance(product, Trained)
    return product
