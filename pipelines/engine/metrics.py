"""The figures of stages as metrics of Ray, which Prometheus reads from the nodes of a cluster; the one place that knows these.

All are gauges of the driver, so that a dashboard shows what its files hold, however often workers died. Ray forgets a gauge
that is not set again within two of its intervals, of 10 s each: those of a stage that has ended. Without Ray nothing is told.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

from pipelines.engine import ray_session
from pipelines.engine.figures import Figures, Unit
from pipelines.recipe.model import label_of, verb_of
from pipelines.store.instances import Instance

logger = logging.getLogger(__name__)

PREFIX = "ray_"  # that Ray puts before every name
TAGS = ("run", "stage", "label")  # the run folder, the verb, and of an instance ``verb.label`` its label
REASON = "reason"  # a further tag of IMAGES_DROPPED


class Metric(Enum):
    """Each by its name, with what it says."""

    IMAGES_DONE = "weaksam_images_done"
    IMAGES_PLANNED = "weaksam_images_planned"
    IMAGES_DROPPED = "weaksam_images_dropped"
    IMAGES_PER_SECOND = "weaksam_images_per_second"
    WAITING_SECONDS = "weaksam_waiting_seconds"
    TRAINING_STEPS_DONE = "weaksam_training_steps_done"
    TRAINING_STEPS_PLANNED = "weaksam_training_steps_planned"
    TRAINING_LOSS = "weaksam_training_loss"

    @property
    def tags(self) -> tuple[str, ...]:
        """What tells its series apart."""
        return (*TAGS, REASON) if self is Metric.IMAGES_DROPPED else TAGS


_DESCRIPTIONS = {
    Metric.IMAGES_DONE: "Images whose rows are written, of those that the stage is asked for.",
    Metric.IMAGES_PLANNED: "Images that the stage is asked for.",
    Metric.IMAGES_DROPPED: "Images that could not be used, by reason.",
    Metric.IMAGES_PER_SECOND: "How fast the stage works, over the last minute; 0 once it has ended.",
    Metric.WAITING_SECONDS: "For how long the stage has waited for workers or room; 0 while it works.",
    Metric.TRAINING_STEPS_DONE: "Steps of the training that are done.",
    Metric.TRAINING_STEPS_PLANNED: "Steps of the training in all.",
    Metric.TRAINING_LOSS: "Mean loss over the training's last steps.",
}
_OF_UNIT = {
    Unit.IMAGES: (Metric.IMAGES_DONE, Metric.IMAGES_PLANNED),
    Unit.STEPS: (Metric.TRAINING_STEPS_DONE, Metric.TRAINING_STEPS_PLANNED),
}


@contextmanager
def of_stage(instance: Instance) -> Iterator[Callable[[Figures], None]]:
    """Give a function that tells the figures of an instance at work; when the body ends, it neither works nor waits."""
    told = _Told(instance)
    try:
        yield told.tell
    finally:
        told.end()


@dataclass
class _Told:
    """What has been told of an instance."""

    instance: Instance
    _dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> images
    _stamps: list[str] = field(default_factory=list)  # of the files that these were counted from

    def tell(self, figures: Figures) -> None:
        """Set all metrics that the figures are about."""
        if not ray_session.is_connected():
            return
        try:
            if figures.unit is not None:
                done, planned = _OF_UNIT[figures.unit]
                self._set(done, figures.done)
                self._set(planned, figures.planned)
            self._set(Metric.IMAGES_PER_SECOND, figures.images_per_s)
            self._set(Metric.WAITING_SECONDS, 0.0 if figures.waiting_for is None else figures.waiting_for.seconds)
            self._set(Metric.TRAINING_LOSS, figures.loss)
            for reason, images in self._count_dropped().items():
                self._set(Metric.IMAGES_DROPPED, images, **{REASON: reason})
        except Exception as error:  # of the storage or of Ray, whichever it is: no reason to stop the work
            logger.warning("%s: its metrics could not be told: %s", self.instance.name, error)

    def end(self) -> None:
        """Set what is so no more."""
        self.tell(Figures(images_per_s=0.0))

    def _count_dropped(self) -> Mapping[str, int]:
        dropped = self.instance.dropped
        stamps = dropped.stamps()
        if stamps != self._stamps:
            rows = self.instance.current(dropped).iter_rows(["image_id", REASON])
            self._dropped = Counter({row["image_id"]: row[REASON] for row in rows}.values())
            self._stamps = stamps
        return self._dropped

    def _set(self, metric: Metric, value: float | None, **more: str) -> None:
        if value is not None:
            of, name = self.instance.run_uri, self.instance.name
            _gauge(metric).set(value, {"run": of, "stage": verb_of(name), "label": label_of(name), **more})


@cache
def _gauge(metric: Metric) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(metric.value, _DESCRIPTIONS[metric], tag_keys=metric.tags)
