"""One worker of a training: it continues from the newest checkpoint, does the steps, and leaves checkpoints behind."""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from pipelines.training.checkpoints import Checkpoints, read_scalars, write_events, write_scalars
from pipelines.training.memory import Gauge, forget_peak, gauge_of, peak_mib
from pipelines.training.phases import Phase, PhaseLosses
from pipelines.training.samples import Batch, GlobalBatches, loader_of, to_device
from pipelines.training.task import (
    Losses,
    NonFiniteLossError,
    PassTooLargeError,
    Position,
    Progress,
    Share,
    Skipped,
    TrainingDataset,
    TrainingResources,
    TrainingTask,
    halved,
)
from pipelines.training.window import Means, Window
from weaksam.chunks import is_out_of_memory
from weaksam.errors import ConfigError, DataError, RunError
from weaksam.heap import give_back_heap
from weaksam.precision import tf32_within
from weaksam.random import derive_seed

logger = logging.getLogger(__name__)

_EVALUATIONS = 20  # looks at the validation score per training
_CHECKPOINTS = 20  # per training, so that a kill costs at most a twentieth of it
_SCALAR_ROWS = 1000  # per training: enough for a curve, few enough to rewrite the file each time
_NAMED = 8  # images that the message of a non-finite loss names
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _Pass(NamedTuple):
    inputs: Any
    image_ids: list[str]
    share: float  # of the worker's images in this step
    last: bool  # of the step


@dataclass
class Worker:
    """One worker's training: everything between two points at which a process may die."""

    task: TrainingTask
    resources: TrainingResources
    folder: str
    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Callable[[Progress], None] | None = None
    say: Callable[[str], None] = logger.warning

    def run(self) -> None:
        """Continue from the newest checkpoint and train to the end; a finished training returns at once."""
        torch.set_num_threads(self.resources.threads)
        if self.device.type == "cpu":
            give_back_heap()  # which a stage before it may have kept in this process
        self.plan = self.task.plan
        torch.manual_seed(derive_seed(self.plan.seed, "weights"))
        self.model = self.task.build_model().to(self.device)
        forget_peak(self.device)
        self.optimizers = self.task.build_optimizers(self.model)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group.setdefault("initial_lr", group["lr"])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.plan.precision == "fp16")
        self.checkpoints = Checkpoints(self.folder, self.plan)
        self.best: dict[str, Any] | None = None
        self.skipped: set[Skipped] = set()
        self.images_per_pass = self.resources.images_per_pass  # at most; 0 = the whole share
        self.gauge: Gauge | None = None  # as long as it is measured how many there may be
        self.gpu_memory_mib: float | None = None  # the largest of all workers and runs up to the newest checkpoint
        start = self._restore()
        self.rows = [row for row in read_scalars(self.folder) if row.step <= start] if self.rank == 0 else []
        with tf32_within(self.plan.precision == "tf32", self.device):
            self._train(start)

    def _restore(self) -> int:
        """Load the newest checkpoint and return the number of steps it has done."""
        state = self.checkpoints.newest()
        start = 0
        if state is not None:
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved if self.device.type == "cuda" else copy.deepcopy(saved))
            self.scaler.load_state_dict(state["scaler"])
            self.best = copy.deepcopy(state["best"]) if self.rank == 0 else None
            self.skipped = {Skipped(*row) for row in state["skipped"]}
            self.gpu_memory_mib = state.get("gpu_memory_mib")  # checkpoints of older versions have neither
            if not self.task.pass_statistics:  # else nothing was halved, and a share is larger with fewer workers
                self.images_per_pass = self.images_per_pass or state.get("images_per_pass", 0)
            start = int(state["step"])
        starts = self._gather(start)
        if len(set(starts)) > 1:
            raise RunError(
                f"{self.folder}: the workers found checkpoints of different steps ({starts}); the folder must be one "
                "that all of them share"
            )
        return start

    def _train(self, start: int) -> None:
        plan, steps = self.plan, self.plan.steps
        phases = [
            Phase(optimizer, PhaseLosses(self.task, self.model, number), self.world)
            for number, optimizer in enumerate(self.optimizers)
        ]
        dataset = self.task.build_dataset()
        if len(dataset.image_ids) != plan.images:
            raise DataError(f"expected the plan's {plan.images} training images, got {len(dataset.image_ids)}")
        self._begin_to_measure()
        self._load_from(start, dataset)
        checkpoint_every = self.resources.checkpoint_every or math.ceil(steps / _CHECKPOINTS)
        window = Window(start)
        for step in range(start, steps):
            at = plan.position(step)
            self._set_rates(self.task.lr_factors(at))
            torch.manual_seed(derive_seed(plan.seed, "step", step, self.rank))  # dropout of all phases, on every device
            self.model.train()
            means = self._take_turns(phases, step, at, dataset)
            self.scaler.update()
            window.add(means[0], plan.batch_size)
            done = step + 1
            if self.gauge is not None:
                self._enlarge(self.gauge, phases)
                self._load_from(done, dataset)
            if done % math.ceil(steps / _EVALUATIONS) == 0 or done == steps:
                self._evaluate(done)
            # The row before the checkpoint: a training that goes on from there writes no row of an earlier step.
            reported = self.rank == 0 and (done % math.ceil(steps / _SCALAR_ROWS) == 0 or done == steps)
            if reported:
                self.rows.append(window.close(done, plan, float(self.optimizers[0].param_groups[0]["lr"])))
                write_scalars(self.folder, self.rows)
            if done % checkpoint_every == 0 or done == steps or done in plan.keep:
                self._save(done)
            if reported and self.progress is not None:
                self.progress(self.rows[-1])

    def _set_rates(self, factors: Sequence[float]) -> None:
        for optimizer, factor in zip(self.optimizers, factors, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def _load_from(self, step: int, dataset: TrainingDataset) -> None:
        """Begin to load the images of a step and those after it, in passes of as many as there may be."""
        share = self.plan.batch_size // self.world
        if 0 < self.images_per_pass < share and (names := self.task.pass_statistics):
            raise ConfigError(
                f"resources.images_per_pass: expected {share}, a worker's share of the batch, because {', '.join(names)} "
                f"takes statistics over a pass, got {self.images_per_pass}; leave it out, or train with more workers"
            )
        self.batches = GlobalBatches(
            self.plan, rank=self.rank, world=self.world, images_per_pass=self.images_per_pass, start=step
        )
        self.loader = iter(loader_of(dataset, self.batches, self.resources.loaders, self.device))

    def _begin_to_measure(self) -> None:
        """Let the first step have passes of one image, if nobody says how many a pass has and its statistics enter no loss."""
        if self.plan.batch_size // self.world > 1 and not self.images_per_pass and not self.task.pass_statistics:
            self.gauge = gauge_of(self.device)
            self.images_per_pass = int(self.gauge is not None)

    def _enlarge(self, gauge: Gauge, phases: Sequence[Phase]) -> None:
        """Let a pass have as many images from now on as each worker has room for, and no more than a share."""
        gradients = (sum(weight.numel() * weight.element_size() for weight in phase.parameters) for phase in phases)
        self.images_per_pass = min(self.batches.share, *self._gather(gauge.images_that_fit(max(gradients))))
        self.gauge = None

    def _take_turns(self, phases: Sequence[Phase], step: int, at: Position, dataset: TrainingDataset) -> list[Means]:
        """Let each phase have its turn with the images of a step; again in smaller passes where they find no room."""
        # A pass is loaded and moved to the device once, and forgotten when the last phase has had it.
        passes = list(itertools.tee(self._passes(), len(phases)))
        means: list[Means] = []
        while len(means) < len(phases):
            phase, before = phases[len(means)], _Before(self.model, self.device)
            try:
                mine = passes.pop(0)
                said = self._backward(phase, self.gauge.watched(mine) if self.gauge else mine, at)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                out_of_memory = _first_sentence(error)
            else:
                means.append(self._learn(phase, *said))
                continue
            passes.clear()
            phase.optimizer.zero_grad(set_to_none=True)
            self._halve(out_of_memory)
            self._load_from(step, dataset)
            before.restore(self.model)  # a loader draws a number, too
            passes = list(itertools.tee(self._passes(), len(phases) - len(means)))
        return means

    def _halve(self, why: str) -> None:
        """Make passes half as large, which changes no mean over the images of a step."""
        too_large = PassTooLargeError(math.ceil(self.batches.share / self.batches.passes), why)
        if self.world > 1:
            raise too_large  # the others wait for this one: all of them begin again
        self.images_per_pass = halved(too_large, self.task)
        self.say(f"  {too_large}; goes on with {self.images_per_pass}")
        torch.cuda.empty_cache()

    def _passes(self) -> Iterator[_Pass]:
        """Yield the passes of the next step, on the device."""
        batches = self.batches
        for number in range(batches.passes):
            batch: Batch = next(self.loader)
            self.skipped.update(batch.skipped)
            inputs, share = to_device(batch.inputs, self.device), len(batch.image_ids) / batches.share
            yield _Pass(inputs, batch.image_ids, share, last=number == batches.passes - 1)

    def _backward(self, phase: Phase, passes: Iterable[_Pass], at: Position) -> tuple[Losses, Tensor, list[list[str]]]:
        """Add up the gradients of a phase's passes; return what the last one says, the values of each, and its images."""
        phase.begin()
        said: list[Losses] = []
        shares: list[Tensor] = []  # of each pass [losses and counts], its part of the worker's mean
        images: list[list[str]] = []
        for one in passes:
            with nullcontext() if one.last or self.world == 1 else phase.module.no_sync():  # type: ignore[operator]
                with self._autocast():
                    said.append(self._ask(phase, one, at))
                    loss = torch.stack([value * one.share for value in said[-1].losses.values()])
                self.scaler.scale(loss.sum()).backward()  # type: ignore[no-untyped-call]
            counts = [value.detach() * one.share for value in said[-1].counts.values()]
            shares.append(torch.stack([*loss.detach(), *counts]))
            images.append(one.image_ids)
        return said[-1], torch.stack(shares), images

    def _learn(self, phase: Phase, said: Losses, values: Tensor, images: list[list[str]]) -> Means:
        """Do one optimiser's step; return the means of what its passes say over the images of all workers."""
        means = self._means([*said.losses, *said.counts], values, images)
        self.scaler.unscale_(phase.optimizer)
        if self.plan.max_grad_norm:
            nn.utils.clip_grad_norm_(phase.parameters, self.plan.max_grad_norm)
        try:
            self.scaler.step(phase.optimizer)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise RunError(  # some weights may have changed, so that it cannot be done again
                f"the optimiser's step finds no room in memory for its states and gradients ({_first_sentence(error)}), "
                "however small a pass is: train a smaller network, or where there is more memory"
            ) from error
        phase.optimizer.zero_grad(set_to_none=True)  # whatever comes next has that memory
        return Means(*({name: means[name] for name in part} for part in said))

    def _ask(self, phase: Phase, one: _Pass, at: Position) -> Losses:
        try:
            losses: Losses = phase.module(one.inputs, at)
        except FloatingPointError as error:  # a network that cannot go on with what it predicts, as DINO's matching
            raise NonFiniteLossError(f"{error}; with images {_some(one.image_ids)}") from error
        return losses

    def _means(self, names: list[str], values: Tensor, images: list[list[str]]) -> dict[str, float]:
        """Sum the values ``[passes, names]`` of this worker and average them over all; raise if one is not finite."""
        total = values.sum(dim=0)
        if self.world > 1:
            torch.distributed.all_reduce(total)
        means = dict(zip(names, (total / self.world).tolist(), strict=True))
        failed = [f"{name} = {mean}" for name, mean in means.items() if not math.isfinite(mean)]
        if failed:  # on every worker alike, because the sum spreads a NaN
            finite = values.isfinite().all(dim=1).tolist()
            mine = next((ids for ids, good in zip(images, finite, strict=True) if not good), [])
            ids = list(itertools.chain.from_iterable(self._gather(mine)))
            raise NonFiniteLossError(
                f"expected a finite loss, got {', '.join(failed)} with images {_some(ids)}; lower the learning rate, use "
                "precision fp32 or bf16, or look at these images"
            )
        return means

    def _evaluate(self, done: int) -> None:
        if self.world > 1:  # each has its own statistics of batch norms; the first one's are those that are kept
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        self.model.eval()
        with torch.no_grad(), self._autocast():
            score = self.task.evaluate(self.model, Share(self.rank, self.world, self._gather))
        if self.rank == 0 and score is not None and (self.best is None or score > self.best["score"]):
            weights = {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}
            self.best = {"score": score, "step": done, "model": weights}

    def _save(self, done: int) -> None:
        self.skipped = set().union(*self._gather(self.skipped))
        peaks = [self.gpu_memory_mib, *self._gather(peak_mib(self.device))]
        self.gpu_memory_mib = max((peak for peak in peaks if peak is not None), default=None)
        if self.rank == 0:
            write_events(self.folder, self.rows)
            self.checkpoints.save(
                {
                    "step": done,
                    "model": self.model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                    "scaler": self.scaler.state_dict(),
                    "best": self.best,
                    "skipped": [list(row) for row in sorted(self.skipped)],
                    "images_per_pass": self.images_per_pass,
                    "gpu_memory_mib": self.gpu_memory_mib,
                }
            )

    def _autocast(self) -> torch.autocast:
        precision = self.plan.precision
        return torch.autocast(self.device.type, _AUTOCAST.get(precision), enabled=precision in _AUTOCAST)

    def _gather(self, value: Any) -> list[Any]:
        """Return the value of every worker, in rank order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


class _Before:
    """What a pass changes beside gradients: buffers, such as those of batch norms, and the states of random generators."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._buffers = [buffer.clone() for buffer in model.buffers()]
        self._device = device
        self._random = torch.get_rng_state()
        self._random_there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self, model: nn.Module) -> None:
        """Bring it all back."""
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        torch.set_rng_state(self._random)
        if self._random_there is not None:
            torch.cuda.set_rng_state(self._random_there, self._device)


def _first_sentence(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0]


def _some(image_ids: Sequence[str]) -> str:
    more = f" and {len(image_ids) - _NAMED} more" if len(image_ids) > _NAMED else ""
    return f"{', '.join(image_ids[:_NAMED])}{more}"
