"""A training small enough to do thousands of times, with everything that makes resuming hard: dropout, batch statistics,
momentum, a schedule, two parameter groups, an adversary. Runs as a program too, so that a test can kill it: FOLDER STEP_S."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipelines.training.images import LabelledImage
from pipelines.training.loop import run_training
from pipelines.training.task import Losses, Position, TrainingPlan, TrainingResources, steps_of
from weaksam.errors import ImageError
from weaksam.random import derive_seed


@dataclass(frozen=True, kw_only=True)
class ToyTask:
    count: int = 10  # of images
    epochs: int = 3
    batch_size: int = 5
    precision: str = "fp32"
    max_grad_norm: float = 0.0
    keep: tuple[int, ...] = ()
    batch_norm: bool = True
    dropout: float = 0.2
    broken: tuple[int, ...] = ()  # indices that cannot be read
    poison: int = -1  # index whose sample makes the loss NaN
    kill_at_epoch: int = -1  # the process that first loads a sample of this epoch dies, once
    marker: str = ""  # file that says that it has died
    step_s: float = 0.0  # slows a sample down, so that a kill finds the training at work
    log: str = ""  # folder that gets one empty file per sample seen, "epoch-index-pid"

    @property
    def plan(self):
        return TrainingPlan(
            images=self.count,
            steps=steps_of(self.count, self.epochs, self.batch_size),
            batch_size=self.batch_size,
            seed=7,
            precision=self.precision,
            max_grad_norm=self.max_grad_norm,
            keep=self.keep,
        )

    statistics: tuple[str, ...] = ()  # settings by which a pass must not be cut up

    @property
    def pass_statistics(self):
        return self.statistics

    @property
    def images(self):
        return [LabelledImage(f"image-{n}", "", ()) for n in range(self.count)]

    def build_model(self):
        norm = nn.BatchNorm1d(8) if self.batch_norm else nn.Identity()
        model = nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(8, 1))
        model.register_parameter("never_used", nn.Parameter(torch.ones(3)))
        return model

    def build_optimizers(self, model):
        groups = [{"params": model[0].parameters(), "lr": 1e-2}, {"params": model[4].parameters(), "lr": 3e-2}]
        return [torch.optim.AdamW([*groups, {"params": [*model[1].parameters(), model.never_used]}], lr=1e-2)]

    def lr_factors(self, at: Position):
        return [1 - at.step / (2 * at.steps)]

    def build_dataset(self):
        return ToyImages(self)

    def losses(self, model, batch, at, _phase):
        fit = nn.functional.mse_loss(model(batch["x"])[:, 0], batch["y"])
        return Losses({"fit": fit}, {"positives": (batch["y"] > 0).float().mean(), "step": fit.new_tensor(at.step)})

    def evaluate(self, _model, _share):
        return None


class AdversaryTask(ToyTask):
    """A second phase learns which inputs to hide, so as to raise the first one's loss; one parameter is frozen."""

    def build_model(self):
        model = super().build_model()
        model.register_parameter("hidden", nn.Parameter(torch.zeros(4)))
        model.register_parameter("frozen", nn.Parameter(torch.full((), 0.5)))
        return model

    def build_optimizers(self, model):
        return [*super().build_optimizers(model), torch.optim.SGD([model.hidden], lr=0.1, momentum=0.9)]

    def lr_factors(self, at: Position):
        return [*super().lr_factors(at), 3.0 if at.step > 2 else 1.0]

    def losses(self, model, batch, _at, phase):
        seen = batch["x"] * torch.sigmoid(2 - model.hidden)
        fit = nn.functional.mse_loss(model(seen)[:, 0], batch["y"])
        size = model.frozen * model[0].weight.square().mean()
        return Losses({"fit": fit, "size": size} if phase == 0 else {"adversary": -0.1 * fit})


class ToyImages:
    def __init__(self, task):
        self.task = task
        self.image_ids = [f"image-{n}" for n in range(task.count)]

    def load(self, index, epoch):
        task = self.task
        if task.log:
            Path(task.log, f"{epoch}-{index}-{os.getpid()}").touch()
        if epoch == task.kill_at_epoch and not os.path.exists(task.marker):
            Path(task.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if index in task.broken:
            raise ImageError("truncated", f"at byte {index}")
        time.sleep(task.step_s)
        x = torch.randn(4, generator=torch.Generator().manual_seed(derive_seed(epoch, index)))
        return x, x.sum() * (float("nan") if index == task.poison else 1)

    def collate(self, samples):
        return {"x": torch.stack([x for x, _ in samples]), "y": torch.stack([y for _, y in samples])}


def train(folder, task=None, *, name="run", progress=None, **resources):
    return run_training(
        task or ToyTask(),
        storage_uri=str(folder),
        run_name=name,
        resources=lambda: TrainingResources(**resources),
        progress=progress,
    )


if __name__ == "__main__":
    result = train(sys.argv[1], ToyTask(step_s=float(sys.argv[2])), checkpoint_every=1)
    print("resumed at", result.resumed_at, result.text)  # noqa: T201
