"""The operators of a pass: functions as Ray tasks, classes as pools of Ray actors; or all in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from pipelines.dataflow.fates import Care
from pipelines.engine import nodes as cluster
from pipelines.engine.notes import Notes
from pipelines.engine.sizes import PoolSizes


class Pools(Protocol):
    """Adds a stage's operators to what flows: a Ray Dataset, or an iterator of Arrow tables in this process."""

    @property
    def sizes(self) -> PoolSizes:
        """How many actors there are, and where they compute."""

    def tasks(self, dataset: Any, function: Callable[..., pa.Table], **arguments: Any) -> Any:
        """Add a function of an Arrow table that mostly waits for disks and networks."""

    def actors(self, dataset: Any, actor: type, count: int, **arguments: Any) -> Any:
        """Add a class that is called with Arrow tables: ``count`` objects of it, built with ``arguments``."""


_DEATHS_PER_TASK = 2  # restarts granted to a task of several images; one with a single image is judged at once
TASK_CPUS = 0.1  # of a logical CPU


@dataclass(frozen=True, kw_only=True)
class ActorPools:
    """``Pools`` on Ray Data, with what all operators have in common; one for each pass."""

    sizes: PoolSizes
    rows: int
    care: Care
    notes: Notes
    avoided: tuple[str, ...] = ()  # nodes

    def tasks(self, dataset: Any, function: Callable[..., pa.Table], **arguments: Any) -> Any:
        """Run it as Ray tasks."""
        noted = self.notes.of_function(function)
        return self._add(dataset, noted, fn_kwargs=arguments, num_cpus=TASK_CPUS, max_retries=self._retries)

    def actors(self, dataset: Any, actor: type, count: int, **arguments: Any) -> Any:
        """Run them as a pool of Ray actors, which grows as nodes join where the sizes say so."""
        import ray

        now = min(count, self.most_useful)
        return self._add(
            dataset,
            self.notes.of_actor(actor),
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(
                min_size=now,
                max_size=max(now, self.most),
                # A dying actor takes along what waits for it. A pool does not grow unless something waits.
                max_tasks_in_flight_per_actor=2 if self.care is Care.TOGETHER else 1,
            ),
            num_cpus=self.sizes.cpu_share,
            num_gpus=self.sizes.gpu_share or None,
            label_selector=cluster.without(self.avoided),
            max_restarts=-1,
            max_task_retries=self._retries,
        )

    @property
    def bundle(self) -> dict[str, float]:
        """What of a node an actor reserves."""
        return {"GPU": self.sizes.gpu_share} if self.sizes.gpu_share else {"CPU": self.sizes.cpu_share}

    @property
    def most_useful(self) -> int:
        """How many actors of a kind have something to do."""
        return 1 if self.care is Care.BY_ITSELF else self.batches

    @property
    def batches(self) -> int:
        """How many batches the rows are cut into."""
        return -(-self.rows // self.sizes.rows_per_task)

    @property
    def most(self) -> int:
        """How many actors of a kind a cluster that grows may have."""
        return min(self.sizes.most_actors, self.most_useful)

    @property
    def _retries(self) -> int:
        return _DEATHS_PER_TASK if self.care is Care.TOGETHER else 0

    def _add(self, dataset: Any, work: Any, **options: Any) -> Any:
        return dataset.map_batches(work, batch_format="pyarrow", batch_size=self.sizes.rows_per_task, **options)


@contextmanager
def advice_silenced() -> Iterator[None]:
    """Silence Ray Data's warnings of what is meant, while the body builds and runs a pass."""
    with warnings.catch_warnings():
        # How often a task or actor is tried again has no named place yet.
        warnings.filterwarnings("ignore", message=".*`ray_remote_args` is deprecated.*")
        # After a process died, the next operator gets fewer batches than it has actors.
        warnings.filterwarnings("ignore", message="The minimum number of concurrent actors for")
        yield


@dataclass(frozen=True)
class OwnProcess:
    """``Pools`` in this process, without Ray."""

    sizes: PoolSizes

    def tasks(
        self, dataset: Iterator[pa.Table], function: Callable[..., pa.Table], **arguments: Any
    ) -> Iterator[pa.Table]:
        """Call it."""
        return (function(batch, **arguments) for batch in dataset)

    def actors(self, dataset: Iterator[pa.Table], actor: type, count: int, **arguments: Any) -> Iterator[pa.Table]:  # noqa: ARG002
        """Call one object."""
        worker = actor(**arguments)
        return (worker(batch) for batch in dataset)
