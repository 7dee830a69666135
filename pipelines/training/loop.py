"""The one training loop: steps over 1..N workers, checkpoints, restart, resume, proof. A stage adds network, loss and loader.

The global batch of a step is a window of one endless stream of seeded permutations, a sample is seeded by (seed, epoch, image
id), the learning rates are functions of the position, and dropout is re-seeded at every step. A training that was killed
therefore continues with the samples that it would have seen, also with another number of workers; with the same number of
workers and threads on CPU its weights are the same to the last bit.
"""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from pipelines.training.checkpoints import Checkpoints, read_scalars, write_events, write_scalars
from pipelines.training.task import (
    Losses,
    NonFiniteLossError,
    Position,
    Progress,
    Skipped,
    TrainingDataset,
    TrainingPlan,
    TrainingResources,
    TrainingResult,
    TrainingTask,
)
from weaksam.errors import ConfigError, DataError, ImageError, RunError
from weaksam.io.files import join
from weaksam.random import derive_seed

_EVALUATIONS = 20  # looks at the validation score per training
_CHECKPOINTS = 20  # per training, so that a kill costs at most a twentieth of it
_SCALAR_ROWS = 1000  # per training: enough for a curve, few enough to rewrite the file each time
_REPLACEMENTS = 20  # unreadable images in a row after which the data set is at fault
_NAMED = 8  # images that the message of a non-finite loss names
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def run_training(
    task: TrainingTask,
    *,
    storage_uri: str,
    run_name: str,
    resources: TrainingResources,
    progress: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train until every planned step is done, continuing from the newest checkpoint under ``storage_uri/run_name``.

    Args:
        task: what to train.
        storage_uri: absolute folder or ``s3://…`` that every worker can reach.
        run_name: the resume key; another name starts afresh.
        resources: where to run; may differ from those of the run that is continued.
        progress: called in this process for every row of the scalars.

    Raises:
        ConfigError: if the batch cannot be shared out evenly or the folder is relative.
        NonFiniteLossError: naming the images of the pass.
        RunError: if the workers failed more often than allowed or the proof does not hold.
    """
    plan, folder = task.plan, join(storage_uri, run_name)
    _check_place(plan, folder, resources.workers)
    started = time.monotonic()
    checkpoints = Checkpoints(folder, plan)
    newest = checkpoints.recover()
    resumed_at = 0 if newest is None else int(newest["step"])
    if resumed_at < plan.steps and resources.workers == 0:
        with torch.random.fork_rng():
            device = torch.device("cuda" if resources.use_gpu else "cpu")
            Worker(task, resources, folder, progress=progress, device=device).run()
    elif resumed_at < plan.steps:
        from pipelines.training.ray_workers import run_on_ray

        def run_worker(**place: Any) -> None:
            Worker(task, resources, folder, **place).run()

        run_on_ray(run_worker, resources, storage_uri, run_name, progress)

    state = _proved(checkpoints, plan, folder)
    scalars = read_scalars(folder)
    write_events(folder, scalars)
    return TrainingResult(
        steps_planned=plan.steps,
        steps_done=state["step"],
        resumed_at=resumed_at,
        seconds=time.monotonic() - started,
        model=state["model"],
        best=state["best"],
        skipped=[Skipped(*row) for row in state["skipped"]],
        scalars=scalars,
        gpu_memory_mib=state.get("gpu_memory_mib"),
    )


def _check_place(plan: TrainingPlan, folder: str, workers: int) -> None:
    if plan.batch_size % max(1, workers):
        raise ConfigError(
            f"expected a batch size that divides evenly among {workers} workers, got {plan.batch_size}; change the number of "
            "workers or the batch size"
        )
    if "://" not in folder and not folder.startswith("/"):
        raise ConfigError(f"expected an absolute storage folder (workers run in other directories), got {folder!r}")


def _proved(checkpoints: Checkpoints, plan: TrainingPlan, folder: str) -> dict[str, Any]:
    """Return the last checkpoint, read back; raise RunError unless it has done all planned steps."""
    state = checkpoints.newest()
    if state is None or state["step"] != plan.steps:
        done = 0 if state is None else state["step"]
        raise RunError(f"{folder}: the proof does not hold: steps planned {plan.steps:,}, done {done:,}. Run it again.")
    return state


class GlobalBatches(Sampler[list[tuple[int, int]]]):
    """One worker's passes from step ``start`` to the end, as lists of (epoch, image index).

    Worker ``rank`` of ``world`` takes every ``world``-th image of a step, so the images of a step are the same for every number
    of workers. Its share is cut into passes of at most ``images_per_pass`` images whose sizes differ by one at most.
    """

    def __init__(self, plan: TrainingPlan, *, rank: int, world: int, images_per_pass: int, start: int) -> None:
        self.plan = plan
        self.rank = rank
        self.world = world
        self.start = start
        self.share = plan.batch_size // world
        self.passes = math.ceil(self.share / images_per_pass) if images_per_pass else 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        cuts = [self.share * n // self.passes for n in range(self.passes + 1)]
        for step in range(self.start, self.plan.steps):
            mine = self.plan.batch(step)[self.rank :: self.world]
            for first, last in itertools.pairwise(cuts):
                yield mine[first:last]

    def __len__(self) -> int:
        return (self.plan.steps - self.start) * self.passes


class _Batch(NamedTuple):
    inputs: Any
    image_ids: list[str]
    skipped: list[Skipped]


class _Pass(NamedTuple):
    inputs: Any
    image_ids: list[str]
    share: float  # of the worker's images in this step
    last: bool  # of the step


class _Samples(Dataset[tuple[Any, str, list[Skipped]]]):
    """A task's images by (epoch, index), with the next readable image in the place of one that cannot be used."""

    def __init__(self, dataset: TrainingDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, str, list[Skipped]]:
        epoch, index = key
        ids = self._dataset.image_ids
        skipped: list[Skipped] = []
        for n in range(_REPLACEMENTS):
            place = (index + n) % len(ids)
            try:
                return self._dataset.load(place, epoch), ids[place], skipped
            except ImageError as error:
                skipped.append(Skipped(ids[place], error.reason, error.detail))
        raise DataError(
            f"{_REPLACEMENTS} training images in a row cannot be used, {ids[index]!r} ({skipped[0].reason}: "
            f"{skipped[0].detail}) and those after it; check that the data are where the images table says"
        )

    def collate(self, samples: list[tuple[Any, str, list[Skipped]]]) -> _Batch:
        inputs, ids, skipped = zip(*samples, strict=True)
        return _Batch(self._dataset.collate(list(inputs)), list(ids), [row for rows in skipped for row in rows])


class _Means(NamedTuple):
    losses: dict[str, float]
    counts: dict[str, float]


class _Losses(nn.Module):
    """The task's losses in one phase as a module, since DistributedDataParallel watches nothing but ``forward``."""

    def __init__(self, task: TrainingTask, model: nn.Module, phase: int) -> None:
        super().__init__()
        self.task = task
        self.model = model
        self.phase = phase

    def forward(self, batch: Any, at: Position) -> Losses:
        return self.task.losses(self.model, batch, at, self.phase)


class _Phase:
    """One optimiser's turn in every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, losses: _Losses, world: int) -> None:
        self.optimizer = optimizer
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.module: nn.Module = losses
        self._model = losses.model
        if world > 1:
            self.begin()  # the wrapper looks after the parameters that require a gradient when it is made
            # A network may hold parameters that a step does not reach: WeakTr's last norm, a head without positives.
            self.module = nn.parallel.DistributedDataParallel(losses, find_unused_parameters=True)

    def begin(self) -> None:
        """Let this optimiser's parameters learn and no others, so that another phase's backward pass skips them."""
        learning = set(self.parameters)
        for parameter in self._model.parameters():
            parameter.requires_grad_(parameter in learning)


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

    def run(self) -> None:
        """Continue from the newest checkpoint and train to the end; a finished training returns at once."""
        torch.set_num_threads(self.resources.threads)
        self.plan = self.task.plan
        torch.manual_seed(derive_seed(self.plan.seed, "weights"))
        self.model = self.task.build_model().to(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.optimizers = self.task.build_optimizers(self.model)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group.setdefault("initial_lr", group["lr"])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.plan.precision == "fp16")
        self.checkpoints = Checkpoints(self.folder, self.plan)
        self.best: dict[str, Any] | None = None
        self.skipped: set[Skipped] = set()
        self.gpu_memory_mib: float | None = None  # the largest of all workers and runs up to the newest checkpoint
        start = self._restore()
        self.rows = [row for row in read_scalars(self.folder) if row.step <= start] if self.rank == 0 else []
        self._train(start)

    def _restore(self) -> int:
        """Load the newest checkpoint and return the number of steps it has done."""
        state = self.checkpoints.newest()
        start = 0
        if state is not None:
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.scaler.load_state_dict(state["scaler"])
            self.best = state["best"]
            self.skipped = {Skipped(*row) for row in state["skipped"]}
            self.gpu_memory_mib = state.get("gpu_memory_mib")  # checkpoints of older versions have none
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
            _Phase(optimizer, _Losses(self.task, self.model, number), self.world)
            for number, optimizer in enumerate(self.optimizers)
        ]
        dataset = self.task.build_dataset()
        if len(dataset.image_ids) != plan.images:
            raise DataError(f"expected the plan's {plan.images} training images, got {len(dataset.image_ids)}")
        batches = GlobalBatches(
            plan, rank=self.rank, world=self.world, images_per_pass=self.resources.images_per_pass, start=start
        )
        checkpoint_every = self.resources.checkpoint_every or math.ceil(steps / _CHECKPOINTS)
        loader = iter(_loader(dataset, batches, self.resources.loader_processes, self.device))
        window = _Window(start)
        for step in range(start, steps):
            at = plan.position(step)
            self._set_rates(self.task.lr_factors(at))
            torch.manual_seed(derive_seed(plan.seed, "step", step, self.rank))  # dropout of all phases, on every device
            self.model.train()
            # A pass is loaded and moved to the device once, and forgotten when the last phase has had it.
            passes = itertools.tee(self._passes(loader, batches), len(phases))
            means = [self._take_turn(phase, own, at) for phase, own in zip(phases, passes, strict=True)]
            self.scaler.update()
            window.add(means[0], plan.batch_size)
            done = step + 1
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

    def _passes(self, loader: Iterator[_Batch], batches: GlobalBatches) -> Iterator[_Pass]:
        """Yield the passes of the next step, on the device."""
        for number in range(batches.passes):
            batch = next(loader)
            self.skipped.update(batch.skipped)
            inputs, share = _to_device(batch.inputs, self.device), len(batch.image_ids) / batches.share
            yield _Pass(inputs, batch.image_ids, share, last=number == batches.passes - 1)

    def _take_turn(self, phase: _Phase, passes: Iterable[_Pass], at: Position) -> _Means:
        """Do one optimiser's step; return the means of what its passes say over the images of all workers."""
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
        names = [*said[-1].losses, *said[-1].counts]
        means = self._means(names, torch.stack(shares), images)
        self.scaler.unscale_(phase.optimizer)
        if self.plan.max_grad_norm:
            nn.utils.clip_grad_norm_(phase.parameters, self.plan.max_grad_norm)
        self.scaler.step(phase.optimizer)
        phase.optimizer.zero_grad(set_to_none=True)  # whatever comes next has that memory
        return _Means(*({name: means[name] for name in part} for part in said[-1]))

    def _ask(self, phase: _Phase, one: _Pass, at: Position) -> Losses:
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
        if self.rank != 0:
            return
        self.model.eval()
        with torch.no_grad(), self._autocast():
            score = self.task.evaluate(self.model)
        if score is not None and (self.best is None or score > self.best["score"]):
            weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self.best = {"score": score, "step": done, "model": weights}

    def _save(self, done: int) -> None:
        self.skipped = set().union(*self._gather(self.skipped))
        peaks = [self.gpu_memory_mib, *self._gather(_gpu_memory_mib(self.device))]
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
                    "gpu_memory_mib": self.gpu_memory_mib,
                }
            )

    def _autocast(self) -> torch.autocast:
        precision = self.plan.precision
        return torch.autocast(self.device.type, _AUTOCAST.get(precision), enabled=precision != "fp32")

    def _gather(self, value: Any) -> list[Any]:
        """Return the value of every worker, in rank order."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


def _gpu_memory_mib(device: torch.device) -> float | None:
    """Return the most memory that tensors of this process have taken on its GPU since the training began; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def _some(image_ids: Sequence[str]) -> str:
    more = f" and {len(image_ids) - _NAMED} more" if len(image_ids) > _NAMED else ""
    return f"{', '.join(image_ids[:_NAMED])}{more}"


class _Window:
    """Means between two rows of the scalars."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._began = time.monotonic()
        self._reset()

    def add(self, means: _Means, images: int) -> None:
        self._means.append(means)
        self._images += images

    def close(self, done: int, plan: TrainingPlan, lr: float) -> Progress:
        now = time.monotonic()
        losses, counts = (_mean(rows) for rows in zip(*self._means, strict=True))
        row = Progress(
            step=done,
            steps=plan.steps,
            epoch=done * plan.batch_size / plan.images,
            loss=sum(losses.values()),
            losses=losses,
            counts=counts,
            lr=lr,
            images_per_s=self._images / max(now - self._since, 1e-9),
            eta_s=(now - self._began) / (done - self._start) * (plan.steps - done),
        )
        self._reset()
        return row

    def _reset(self) -> None:
        self._means: list[_Means] = []
        self._images = 0
        self._since = time.monotonic()


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _loader(
    dataset: TrainingDataset, batches: GlobalBatches, processes: int, device: torch.device
) -> DataLoader[tuple[Any, str, list[Skipped]]]:
    samples = _Samples(dataset)
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=samples.collate,
        num_workers=processes,
        worker_init_fn=_leave_interrupts_to_parent,
        pin_memory=device.type == "cuda",
    )


def _leave_interrupts_to_parent(_worker: int) -> None:
    """Ignore what a terminal sends to loading processes, too, on Ctrl-C and when it is closed: their parent ends them."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # with which it does so, and for which it has a handler


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: _to_device(entry, device) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        moved = [_to_device(entry, device) for entry in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)  # a named tuple, or not
    return value
