"""Lines of the log say which run, stage and image they are about, in whatever process and thread."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.dataflow.rows import guarded
from pipelines.engine import logs
from pipelines.engine.logs import Subject, Subjects
from pipelines.engine.notes import Notes
from pipelines.engine.stage import Options
from pipelines.recipe.model import load_recipe
from pipelines.runner import Run
from tests.support.patience import wait_until

logger = logging.getLogger("pipelines.tests")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What ends up in a log."""
    said: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record))

    handler = Handler()
    handler.setFormatter(logging.Formatter("%(message)s%(about)s"))
    handler.addFilter(Subjects())
    logging.getLogger().addHandler(handler)
    yield said
    logging.getLogger().removeHandler(handler)


def test_a_line_says_what_it_is_about_as_far_as_that_is_known(lines: list[str]) -> None:
    logger.warning("before")
    with logs.about(run="/run", stage="propose.grid"):
        logger.warning("100%%")
        with logs.about(image_id="a b"):
            logger.warning("odd")
        logger.warning("after")
    logger.warning("end")
    about = "run=/run stage=propose.grid"
    assert lines == ["before", f"100%% ({about})", f"odd ({about} image_id=a b)", f"after ({about})", "end"]


def test_programs_find_it_in_the_record() -> None:
    record = logging.makeLogRecord({"msg": "odd"})
    with logs.about(run="/run", stage="propose", image_id="a"):
        assert Subjects().filter(record)
    assert (vars(record)["run"], vars(record)["stage"], vars(record)["image_id"]) == ("/run", "propose", "a")


def test_an_image_that_fails_is_named_also_in_threads(lines: list[str]) -> None:
    def fail(_row: object) -> dict[str, object]:
        logger.warning("looks odd")
        raise ValueError("broken")

    row = {"image_id": "a", "reason": None}
    with logs.about(run="/run", stage="propose"):
        assert guarded(fail, row, ())["reason"] == "internal error"
        with ThreadPoolExecutor(1) as pool:
            pool.map(logs.of_image(lambda row: logger.warning("%s", row["image_id"])), [{"image_id": "b"}])
        thread = threading.Thread(target=copy_context().run, args=(logger.warning, "beat"))
        thread.start()
        thread.join()
    about = "(run=/run stage=propose image_id=a)"
    first, second, *rest = lines
    assert (first, second.splitlines()[0]) == (f"looks odd {about}", f"image a {about}")
    assert rest == ["b (run=/run stage=propose image_id=b)", "beat (run=/run stage=propose)"]


def test_what_a_run_logs_is_about_it_and_its_stage(tmp_path: Path, lines: list[str]) -> None:
    recipe, _ = load_recipe("grid", ["data.shapes.train=1", "data.shapes.val=1", "data.shapes.test=0"], "shapes:")
    run = Run(recipe, str(tmp_path / "run"))
    run.bring(["index"], Options())
    (part,) = Path(run.instance("index").folder).glob("part-*.parquet")
    part.write_bytes(b"broken")
    Run(recipe, str(tmp_path / "run")).bring(["index"], Options())
    assert len(lines) == 1
    assert lines[0].startswith("set aside 1 damaged file in ")
    assert lines[0].endswith(f" (run={tmp_path}/run stage=index)")


def odd(batch: pa.Table) -> pa.Table:
    for row in batch.to_pylist():
        logs.of_image(lambda _row: logger.warning("looks odd"))(row)
    return batch


@pytest.mark.ray
def test_processes_of_ray_log_what_their_driver_works_on(ray_cluster: None) -> None:
    import ray

    with logs.about(run="/run", stage="propose"):
        notes = Notes()
    assert notes.subject == Subject(run="/run", stage="propose")
    batch = pa.table({"image_id": ["a", "b"]})
    ray.get(ray.remote(notes.of_function(odd)).options(num_cpus=0).remote(batch))
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())  # type: ignore[attr-defined]
    line = re.compile(r"^\S+ \S+ WARNING \S+: looks odd \(run=/run stage=propose image_id=([ab])\)$", re.M)

    def said() -> list[str]:
        return line.findall("\n".join(file.read_text() for file in folder.glob("worker-*.err")))

    wait_until(lambda: said() == ["a", "b"], explain=lambda: str(said()))
