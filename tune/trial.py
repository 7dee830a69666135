"""One trial: the stages of a recipe up to what holds the objectives, and what was measured, as a record.

A record is a small JSON file named by the trial's key, written when the trial ends, however it ends. The records of a folder
are all that a sweep knows of its past: what has one is not run again.
"""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipelines.engine.stage import Job, Options
from pipelines.engine.voice import SILENT, Voice
from pipelines.products.index import Index
from pipelines.recipe.model import Recipe
from pipelines.stages.retrain.stage import TrainedDetector
from pipelines.store.explain import explain
from pipelines.store.files import DamagedFileError, read_object, write_bytes, write_json
from pipelines.variants.measure import Measured, measure_run
from pipelines.variants.objectives import OBJECTIVES
from pipelines.variants.objectives.base import EarlyDetections, Part
from tune.spaces import Settings
from tune.sweep import Sweep, Trials
from weaksam.errors import ImageError, RunError
from weaksam.io.files import join, open_fs
from weaksam.metrics.seeds import mean_and_spread

if TYPE_CHECKING:
    from pipelines.training.task import Progress, TrainingTask

State = Literal["finished", "stopped", "failed"]
Figures = dict[str, float | None]  # objective -> figure in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Record:
    """How a trial ended."""

    key: str
    settings: Settings
    state: State
    select: Figures = field(default_factory=dict)  # mean over the seeds
    report: Figures = field(default_factory=dict)
    by_seed: dict[str, dict[Part, Figures]] = field(default_factory=dict)
    early: dict[str, float] = field(default_factory=dict)  # per cent of the training -> the objective then
    seconds: float = 0.0
    ended: str = ""  # UTC
    error: str = ""


def run_trial(
    trials: Trials,
    settings: Settings,
    options: Options,
    voice: Voice = SILENT,
    early: Callable[[int, float], None] | None = None,
) -> Record:
    """Bring a trial's instances up to date and read its objectives. A failure is a record, too.

    Args:
        trials: of the sweep.
        settings: of this one.
        options: for the stages.
        voice: for what they say.
        early: called with the per cent trained and the objective each time that the scheduler compares trials.
    """
    started = time.time()
    key = trials.key(settings)
    by_seed: dict[str, dict[Part, Figures]] = {}
    try:
        variant = trials.variant(settings)
        instances = variant.instances(trials.sweep.objectives)
        for seed in variant.seeds:
            recipe = variant.recipe(seed)
            look = None if early is None else EarlyLook(trials.sweep, recipe, early)
            by_seed[str(seed)] = figures_of(
                trials.sweep, measure_run(trials.run(recipe), instances, options, voice, on_scalars=look)
            )
        select, report = (_mean([of_seed[part] for of_seed in by_seed.values()]) for part in ("select", "report"))
        objective = trials.sweep.objective
        if select[objective] is None and not OBJECTIVES[objective].among_trials:
            raise RunError(f"{objective}: nothing to measure on {trials.sweep.select_on}")
        record = Record(key=key, settings=settings, state="finished", select=select, report=report, by_seed=by_seed)
    except Exception as error:  # whatever it is, the other trials go on
        text = str(explain(error) or "".join(traceback.format_exception(error)[-4:]))
        record = Record(key=key, settings=settings, state="failed", by_seed=by_seed, error=text)
    return replace(record, seconds=round(time.time() - started, 2), ended=utc_now())


def figures_of(sweep: Sweep, measured: Measured) -> dict[Part, Figures]:
    """Return every objective of a cell on the images that trials are selected on, and on those that are reported."""
    splits: dict[Part, str] = {"select": sweep.select_on, "report": sweep.report_on}
    return {
        part: {name: OBJECTIVES[name].of_part(measured.values[name], part, split) for name in sweep.objectives}
        for part, split in splits.items()
    }


def utc_now() -> str:
    """Return the time as records tell it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def value_of(sweep: Sweep, record: Record) -> float:
    """Return the objective of a trial on the part that trials are selected on, -1 where there is none."""
    value = record.select.get(sweep.objective)
    return -1.0 if value is None else value


def last_known(sweep: Sweep, record: Record) -> tuple[int, float]:
    """Return the last value of a trial's objective, and after how many per cent of its training that was."""
    if record.state == "finished" or not record.early:
        return 100, value_of(sweep, record)
    share = max(record.early, key=int)
    return int(share), record.early[share]


def early_percents(sweep: Sweep) -> list[int]:
    """Return after how many per cent of its training a trial is compared with others, rising; none without ASHA."""
    percent, found = min(max(1, round(100 * sweep.scheduler.first)), 99), list[int]()
    while sweep.scheduler.name == "asha" and percent < 100:
        found.append(percent)
        percent *= sweep.scheduler.reduction
    return found


class EarlyLook:
    """Measures the detector of a training that is under way, on the split that trials are selected on.

    The newest checkpoint at or after the point of comparison is looked at, so that nothing is asked of the training.
    """

    def __init__(self, sweep: Sweep, recipe: Recipe, tell: Callable[[int, float], None]) -> None:
        self._sweep = sweep
        self._recipe = recipe
        self._tell = tell
        self._told = 0

    def __call__(self, job: Job[Any], task: TrainingTask, row: Progress) -> None:
        """Look at the newest checkpoint of a detector's retraining if it is time."""
        from pipelines.stages.retrain.task import RetrainTask

        if not isinstance(task, RetrainTask):
            return
        due = [p for p in early_percents(self._sweep) if self._told < p <= 100 * row.step / row.steps]
        if not due or row.step == row.steps:
            return
        state = TrainedDetector(job.instance).checkpoints(task.plan).newest()
        if state is None or 100 * state["step"] < due[-1] * row.steps:
            return
        self._told = due[-1]
        detector = task.build_model()
        detector.load_state_dict(state["model"])
        test = detector.config.test
        # Comparing needs neither all scales nor mirror images, and must not take longer than training.
        one_pass = replace(test, scales=(sorted(test.scales)[len(test.scales) // 2],), flip=False)
        detector.config = replace(detector.config, test=one_pass)
        device = "cuda" if self._sweep.resources.gpus else "cpu"
        index = job.input(job.options.index, Index)
        value = measure_early(self._recipe, index, detector.to(device).eval(), self._sweep)
        if value is not None:
            self._tell(due[-1], value)


def measure_early(recipe: Recipe, index: Index, detector: Any, sweep: Sweep) -> float | None:
    """Return the objective of a detector on the split that trials are selected on."""
    from pipelines.evaluate.detections import NO_PROPOSALS, MeasuredImage
    from weaksam.detectors.inference import detect_alone
    from weaksam.io.files import read_bytes
    from weaksam.io.images import decode_image

    early = OBJECTIVES[sweep.objective].early
    assert early is not None  # checked with the sweep
    images = []
    for row in index.table.iter_rows(("image_id", "split", "uri")):
        if row["split"] == sweep.select_on:
            try:
                image = decode_image(read_bytes(row["uri"]))
            except ImageError:
                continue  # ``detect`` drops and counts it in the end
            images.append(
                MeasuredImage(
                    image_id=row["image_id"],
                    split=row["split"],
                    size_hw=(image.shape[0], image.shape[1]),
                    detections=detect_alone(detector, image),
                    proposals_xyxy=NO_PROPOSALS,
                )
            )
    return early(EarlyDetections(recipe=recipe, split=sweep.select_on, class_names=index.class_names, images=images))


class Records:
    """The records in a sweep's folder, local or in a bucket."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def read(self) -> dict[str, Record]:
        """Return every record by its trial's key, the first that ended first."""
        fs, path = open_fs(self.folder)
        fs.invalidate_cache()
        names = [name.rpartition("/")[2] for name in fs.ls(path, detail=False)] if fs.exists(path) else []
        found = [self._read(join(self.folder, name)) for name in names if name.endswith(".json")]
        known = [record for record in found if record is not None]
        return {record.key: record for record in sorted(known, key=lambda r: (r.ended, r.key))}

    def begin(self, key: str, settings: Settings) -> None:
        """Note the settings of a trial that nobody will think of again, before it begins."""
        write_json(join(self._begun, f"{key}.json"), {"settings": settings})

    def begun(self) -> dict[str, Settings]:
        """Return the settings that were noted, by their trial's key, of those that have no record yet."""
        fs, path = open_fs(self._begun)
        fs.invalidate_cache()
        names = sorted(name.rpartition("/")[2] for name in fs.ls(path, detail=False)) if fs.exists(path) else []
        noted = {name.removesuffix(".json"): join(self._begun, name) for name in names if name.endswith(".json")}
        ended = self.read().keys()
        read = {key: _noted(uri) for key, uri in noted.items() if key not in ended}
        return {key: settings for key, settings in read.items() if settings is not None}

    def get(self, key: str) -> Record | None:
        """Return one record, or None."""
        return self._read(self._file(key))

    def write(self, record: Record) -> None:
        """Write one record, all or nothing."""
        write_json(self._file(record.key), {name: getattr(record, name) for name in Record.__dataclass_fields__})

    def _read(self, uri: str) -> Record | None:
        try:
            content = read_object(uri)
            return None if content is None else TypeAdapter(Record).validate_python(content)
        except (DamagedFileError, ValidationError) as error:
            reason = error.reason if isinstance(error, DamagedFileError) else f"{error.error_count()} wrong values"
            raise RunError(
                f"{uri}: a damaged record of a trial ({reason}); delete it, and the sweep runs it again"
            ) from error

    def _file(self, key: str) -> str:
        return join(self.folder, f"{key}.json")

    @property
    def _begun(self) -> str:
        return join(self.folder, "begun")


def _noted(uri: str) -> Settings | None:
    """Return noted settings; None where a damaged file does not say, which costs no more than a proposal."""
    with suppress(DamagedFileError):
        settings = (read_object(uri) or {}).get("settings")
        return settings if isinstance(settings, dict) else None
    return None


class TrialLog(io.StringIO):
    """What the stages of a trial say, for people: a file that is whole after every line, in a bucket, too.

    What earlier attempts said stays at its beginning.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        fs, path = open_fs(uri)
        with suppress(FileNotFoundError):
            self.write(fs.cat_file(path).decode(errors="replace"))
        self.write(f"--- {utc_now()}\n")

    def flush(self) -> None:
        """Write all of it; called after every line."""
        write_bytes(self._uri, self.getvalue().encode())


def _mean(rows: list[Figures]) -> Figures:
    """Return the mean over seeds of every figure; None where one of them is."""
    return {name: mean_and_spread(row[name] for row in rows).mean for name in rows[0]}
