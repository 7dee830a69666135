"""Every shipped table, made from drawn images to the last figure: two steps of each training, in one process."""

import json

import pytest

from pipelines.engine.stage import Options
from pipelines.variants.cells import Asked, Cells
from pipelines.variants.document import to_lines
from pipelines.variants.run import make_table
from pipelines.variants.table import known_tables, load_table
from tests.support.voice import Recorder

pytestmark = pytest.mark.slow

TOY = """
base: BASE
name: shapes-toy
data: {uri: "shapes:", splits: [train, val], shapes: {train: 8, val: 4, test: 0, size: 64}}
propose: {splits: []}
clues: {cam: {max_side: 64}}
classifier: {epochs: 1, crop_size: 64, batch_size: 4}
prompts: {points_per_side: 2}
selective_search: {min_side: 4, resize_width: 0}
mil: {steps: 2, epochs: 0, scales: [64], max_side: 64, min_box_side: 4}
detect: {scales: [64], max_side: 64, splits: []}
retrain:
  steps: 2
  epochs: 0
  batch_size: 4
  scales: [64]
  max_side: 64
  detector: {name: faster_rcnn, anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32, drop: {start_step: 1}}
  test: {scales: [64], max_side: 64, splits: []}
superpixels: {points_per_side: 4}
train_prompts: {steps: 2, warmup_steps: 0, batch_size: 4, long_side: [64, 64], crop_size: 64}
segmenter: {steps: 2, batch_size: 4, side: 64, crop_side: 64}
resources: {here: true}
"""
SMALL_MASK_RCNN = (
    "retrain.detector={name: mask_rcnn, anchor_sides: [12, 24, 48], pyramid_dim: 16, head_dim: 32, mask_dims: [8]}",
)
SMALL_DINO = (
    "retrain.detector={name: dino, dim: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, feedforward_dim: 16, queries: 10, "
    "denoising_queries: 4}",
)
SMALL_BODIES = tuple(
    f"{part}.{body}" for part in ("mil", "retrain") for body in ("backbone=small", "init=builtin:stem")
)
SMALLER = {  # of a recipe's own
    "shapes-fma": ("train-prompts.maps.steps=2",),
}
IN_SECONDS = ("table-5", "table-6", "table-10")
TABLES = [pytest.param(n, marks=() if n in IN_SECONDS else pytest.mark.long) for n in known_tables()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run folder for all tables, which share what they can."""
    return tmp_path_factory.mktemp("tables")


def shortened(table):
    """One row of each kind, which sets the same fields to the same words, and its trainings a two-hundredth as long."""
    rows, kinds = {}, set()
    for name, row in table.rows.items():
        fields = frozenset((field, value if isinstance(value, str) else None) for field, value in row.settings.items())
        kind = (fields, row.presets, row.detections, row.label_maps)
        if kind not in kinds:
            kinds.add(kind)
            settings = {k: v // 200 if k.endswith(".steps") else v for k, v in row.settings.items()}
            rows[name] = row.model_copy(update={"settings": settings})
    differences = table.differences and table.differences.model_copy(
        update={"pairs": tuple(pair for pair in table.differences.pairs if set(pair) <= rows.keys())}
    )
    return table.model_copy(update={"rows": rows, "differences": differences})


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_measured(run, tmp_path, name):
    table = shortened(load_table(name))
    (tmp_path / "toy.yaml").write_text(TOY.replace("BASE", f"{table.recipe}.yaml"))
    detector = {"dino": SMALL_DINO, "mask_rcnn": SMALL_MASK_RCNN}.get(
        table.starts_from.get("retrain.detector.name", ""), ()
    )
    smaller = (*SMALL_BODIES, *detector, *SMALLER.get(table.recipe, ()))
    overrides = tuple(item for item in smaller if item.partition("=")[0] not in table.fields_set())
    cells = Cells(table, Asked(recipe=str(tmp_path / "toy.yaml"), overrides=overrides, seeds=(0,)))
    voice = Recorder()
    document = make_table(cells, str(run), Options(), voice)
    assert document["errors"] == []
    assert cells.left_out == {}
    assert [row["state"] for row in document["rows"]] == ["measured"] * len(table.rows)
    known = {heading for row in document["rows"] for heading, of in row["values"].items() if of["mean"] is not None}
    assert set(table.columns) - known <= {"MiB a GPU", "wrong of dropped"}
    assert len(document["differences"]) == (len(table.differences.pairs) if table.differences else 0)
    assert json.loads((run / "tables" / f"{name}.json").read_text()) == document
    _, lines = to_lines(document)
    assert len(lines) == len(table.rows)
    # The same command again makes nothing anew.
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.manifest.json")}
    assert before
    assert make_table(cells, str(run), Options())["rows"] == document["rows"]
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.manifest.json")} == before
