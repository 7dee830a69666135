"""What a training leaves behind: weights, checkpoints, the scalars of its curves, and the facts that its manifest keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.engine.product import Facts, Product
from pipelines.products.rows import Throughput
from pipelines.store.files import write_bytes
from weaksam.io.files import join
from weaksam.structures import IMAGE_LABELS

if TYPE_CHECKING:
    from pipelines.engine.stage import Job
    from pipelines.store.instances import Instance
    from pipelines.training.checkpoints import Checkpoints
    from pipelines.training.task import Progress, TrainingPlan
    from weaksam.config.weights import Weights

_CHECKPOINTS = "checkpoints"  # folder of an instance


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The proof of a training, in optimiser steps."""

    planned: int
    done: int
    resumed_at: int


@dataclass(frozen=True, kw_only=True)
class TrainingFacts(Facts):
    """What every training says of itself."""

    steps: Steps | None = None
    throughput: Throughput | None = None
    images_per_pass: int | None = None  # at most, of a worker; None = its share of the batch
    gpu_memory_mib: float | None = None  # the most that tensors of one worker took; None without a GPU
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> images of the split that were not learnt from
    supervision: str = IMAGE_LABELS


class Trained(Product[TrainingFacts]):
    """The product of a training."""

    facts_type = TrainingFacts
    weights_file: ClassVar[str] = "detector.safetensors"

    @property
    def weights_uri(self) -> str:
        """Where the trained weights are."""
        return self.instance.file(self.weights_file)

    def write_weights(self, data: bytes) -> None:
        """Keep the trained weights, a safetensors file."""
        write_bytes(self.weights_uri, data)

    def checkpoints(self, plan: TrainingPlan) -> Checkpoints:
        """Return the checkpoints of a training that follows ``plan``."""
        from pipelines.training.checkpoints import Checkpoints

        return Checkpoints(self._training_uri, plan)

    def scalars(self) -> list[Progress]:
        """Return the rows of the curves that were written so far; empty before the first."""
        from pipelines.training.checkpoints import read_scalars  # with torch

        return read_scalars(self._training_uri)

    @property
    def _training_uri(self) -> str:
        return join(checkpoints_uri(self.instance), self.instance.key)


def weights_of_job(job: Job[Any], model: str, given: Weights) -> Weights:
    """Return the weights that a recipe gives or, where ``model`` names a training of the run, those of that as they are now."""
    return replace(given, uri=job.input(model, Trained).weights_uri).as_seen() if model else given


def checkpoints_uri(instance: Instance) -> str:
    """Return the folder in which a training keeps one named by the instance's key, and TensorBoard looks for its events."""
    return instance.file(_CHECKPOINTS)
