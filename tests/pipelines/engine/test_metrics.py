"""Stages tell their figures to Ray, whose agents give them to Prometheus; without Ray nobody is told."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import weaksam
from pipelines.engine import metrics, ray_session
from pipelines.engine.figures import Figures, Unit
from pipelines.engine.metrics import PREFIX, Metric
from pipelines.engine.stage import Options
from pipelines.engine.voice import Waiting
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from pipelines.store.instances import Instance
from tests.support.dashboard import queries
from tests.support.patience import wait_until
from tests.support.sets import FROM_NOTHING, instance_of, write_images
from tests.support.voice import Recorder

Series = dict[tuple[str, ...], float]  # values by name and values of tags


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Series:
    """What is told to a Ray that is connected."""
    told: Series = {}

    class Gauge:
        def __init__(self, metric: Metric) -> None:
            self.metric = metric

        def set(self, value: float, tags: Mapping[str, str]) -> None:
            assert tuple(tags) == self.metric.tags
            told[self.metric.value, *tags.values()] = value

    monkeypatch.setattr(metrics, "_gauge", Gauge)
    monkeypatch.setattr(ray_session, "is_connected", lambda: True)
    return told


def begun(run: Path, name: str, dropped: Mapping[str, str]) -> Instance:
    """An instance that has dropped images for reasons."""
    write_images(str(run), {"train": ["a", "b", "c", "d"]})
    instance = instance_of(str(run), name)
    instance.begin({"verb": name})
    drop(instance, dropped, "part-0")
    return instance


def drop(instance: Instance, dropped: Mapping[str, str], part: str) -> None:
    common = {"input": FROM_NOTHING, "uri": "", "stage": instance.name, "detail": ""}
    rows = [{"image_id": image_id, "reason": reason, **common} for image_id, reason in dropped.items()]
    instance.dropped.write_rows(rows, part)


def test_figures_are_told_by_run_stage_and_label(tmp_path: Path, told: Series) -> None:
    run, grid = str(tmp_path), begun(tmp_path, "propose.grid", {"a": "unreadable", "b": "unreadable", "x": "of others"})
    waiting = Waiting(what="workers", seconds=31.5, details="")
    with metrics.of_stage(grid) as tell:
        tell(Figures(unit=Unit.IMAGES, done=1, planned=4, waiting_for=waiting))
        at = (run, "propose", "grid")
        assert told == {
            ("weaksam_images_done", *at): 1,
            ("weaksam_images_planned", *at): 4,
            ("weaksam_images_dropped", *at, "unreadable"): 2,
            ("weaksam_waiting_seconds", *at): 31.5,
        }
        drop(grid, {"c": "too small"}, "part-1")
        tell(Figures(unit=Unit.IMAGES, done=2, planned=4, images_per_s=0.5))
        assert told["weaksam_images_dropped", *at, "too small"] == 1
        assert (told["weaksam_images_per_second", *at], told["weaksam_waiting_seconds", *at]) == (0.5, 0.0)
    assert told["weaksam_images_per_second", *at] == 0.0  # it works no more
    assert told["weaksam_images_done", *at] == 2


def test_a_training_tells_its_steps_and_loss(tmp_path: Path, told: Series) -> None:
    with metrics.of_stage(begun(tmp_path, "train-mil", {})) as tell:
        tell(Figures(unit=Unit.STEPS))
        tell(Figures(unit=Unit.STEPS, done=7, planned=9, images_per_s=3.5, loss=0.25))
        assert {name: value for (name, *_), value in told.items()} == {
            "weaksam_training_steps_done": 7, "weaksam_training_steps_planned": 9, "weaksam_training_loss": 0.25,
            "weaksam_images_per_second": 3.5, "weaksam_waiting_seconds": 0.0,
        }  # fmt: skip


def test_a_storage_that_does_not_answer_stops_nothing(
    tmp_path: Path, told: Series, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_answer(_instance: Instance) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(Instance, "dropped", property(no_answer))
    with metrics.of_stage(instance_of(str(tmp_path), "propose")) as tell:
        tell(Figures(unit=Unit.IMAGES, done=1, planned=4))
    assert caplog.messages == ["propose: its metrics could not be told: no answer"] * 2
    assert told["weaksam_images_done", str(tmp_path), "propose", ""] == 1


def test_every_metric_is_documented() -> None:
    page = (Path(weaksam.__file__).parents[1] / "docs" / "RUNNING.md").read_text()
    assert [metric.value for metric in Metric if f"`{PREFIX}{metric.value}`" not in page] == []


def test_without_ray_none_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipelines.engine import metrics\n"
        "from pipelines.engine.figures import Figures, Unit\n"
        "from pipelines.store.instances import Instance\n"
        "with metrics.of_stage(Instance(sys.argv[1], 'propose', 'k')) as tell:\n"
        "    tell(Figures(unit=Unit.IMAGES, done=1, planned=2))\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'ray']\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.ray
def test_a_node_of_a_cluster_has_all_that_the_dashboard_shows(ray_cluster: None, tmp_path: Path) -> None:
    pytest.importorskip(
        "prometheus_client", reason="Ray's agents export metrics with what the extra `cluster` installs"
    )
    during: Series = {}

    class Looking(Recorder):
        """Looks at a stage that runs."""

        @contextmanager
        def rows(self, label: str, total: int, count: Callable[[], int]) -> Iterator[None]:
            with super().rows(label, total, count):
                wait_until(lambda: ("weaksam_images_planned", run, "propose", "") in exported(), every_s=0.5)
                during.update(exported())
                yield

    run = str(tmp_path / "run")
    with metrics.of_stage(begun(tmp_path, "train-mil.other", {"a": "unreadable"})) as tell:
        tell(Figures(unit=Unit.STEPS, done=7, planned=9, images_per_s=3.5, loss=0.25))
        drawn = ["data.shapes.train=1", "data.shapes.val=1", "data.shapes.test=0", "data.shapes.size=32"]
        recipe, _ = load_recipe("grid", [*drawn, "resources.cpus=2"], "shapes:")
        Run(recipe, run).bring(["propose"], Options(), Looking())
        assert during["weaksam_images_done", run, "propose", ""] == 0
        assert during["weaksam_images_planned", run, "propose", ""] == 2
        assert {name for query in queries() for name in query.metrics} <= {f"{PREFIX}{name}" for name, *_ in during}
        assert during["weaksam_images_dropped", str(tmp_path), "train-mil", "other", "unreadable"] == 1


def exported() -> Series:
    """What the agent of this Ray's node tells Prometheus of our stages."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(address) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = (
        sample for family in families for sample in family.samples if family.name.startswith(f"{PREFIX}weaksam_")
    )
    return {
        (metric.value, *(sample.labels[tag] for tag in metric.tags)): sample.value
        for sample in samples
        for metric in Metric
        if sample.name == f"{PREFIX}{metric.value}"
    }
