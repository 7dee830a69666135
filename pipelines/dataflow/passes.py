"""Working a table stage off on Ray Data, or in this process, until every planned image is done or dropped.

Resume is subtraction: what is planned, minus the rows that the table has of these images as they are now, minus those that were
dropped as they are now. A first pass goes over all that is left; images that are neither done nor dropped afterwards (a process
died over their task) are tried again one per task, and one that kills its process again is dropped as "process died".
"""

from __future__ import annotations

import errno
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from pipelines.dataflow.lost_rows import errors_of_tasks, raise_unless_processes_died
from pipelines.engine import ray_session
from pipelines.engine.stage import Job
from pipelines.products.rows import RowFacts, Throughput
from pipelines.store import identities
from pipelines.store.compaction import remove_retired
from pipelines.store.copies import remove_copies
from pipelines.store.dropped import write_dropped
from pipelines.store.planned import also_in, without
from pipelines.store.proof import left, prove
from pipelines.store.tables import Table, part_name
from weaksam.heap import KEEP_HEAP_ENV


class Pools(Protocol):
    """Adds a stage's operators to what flows: a Ray Dataset, or an iterator of Arrow tables in this process."""

    def tasks(self, dataset: Any, function: Callable[..., pa.Table], **arguments: Any) -> Any:
        """Add a function of an Arrow table that mostly waits for disks and networks."""

    def actors(self, dataset: Any, actor: type, count: int, **arguments: Any) -> Any:
        """Add a class that is called with Arrow tables: at most ``count`` objects of it, built with ``arguments``."""


Operators = Callable[[Any, Pools], Any]  # from planned rows to rows of the table

# Restarts granted to a task whose process dies before its images are tried one by one.
_DEATHS_PER_TASK = 2
_TASK_CPUS = 0.25  # of a logical CPU
_TROUBLE = pa.schema([("errno", pa.int32()), ("reason", pa.string()), ("file", pa.string())])  # of the storage


class ActorPools:
    """``Pools`` on Ray Data, with what all operators have in common; one for each pass."""

    def __init__(self, sizes: ray_session.PoolSizes, rows: int, deaths: int) -> None:
        self.sizes = sizes
        self._most_actors = math.ceil(rows / sizes.rows_per_task)  # one more would have nothing to do
        self._deaths = deaths  # restarts granted to a task; then its rows are left undone

    def tasks(self, dataset: Any, function: Callable[..., pa.Table], **arguments: Any) -> Any:
        """Run it as Ray tasks."""
        return self._add(dataset, function, fn_kwargs=arguments, num_cpus=_TASK_CPUS, max_retries=self._deaths)

    def actors(self, dataset: Any, actor: type, count: int, **arguments: Any) -> Any:
        """Run them as a pool of Ray actors."""
        import ray

        return self._add(
            dataset,
            actor,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(
                size=min(count, self._most_actors),
                # A dying actor takes along what waits for it.
                max_tasks_in_flight_per_actor=2 if self._deaths else 1,
            ),
            num_cpus=self.sizes.cpu_share,
            num_gpus=self.sizes.gpu_share or None,
            runtime_env={"env_vars": KEEP_HEAP_ENV},
            max_restarts=-1,
            max_task_retries=self._deaths,
        )

    def _add(self, dataset: Any, work: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            # How often a task or actor is tried again has no named place yet; this is the only deprecation silenced.
            warnings.filterwarnings("ignore", message=".*`ray_remote_args` is deprecated.*")
            return dataset.map_batches(work, batch_format="pyarrow", batch_size=self.sizes.rows_per_task, **options)


class OwnProcess:
    """``Pools`` in this process, without Ray."""

    def tasks(
        self, dataset: Iterator[pa.Table], function: Callable[..., pa.Table], **arguments: Any
    ) -> Iterator[pa.Table]:
        """Call it."""
        return (function(batch, **arguments) for batch in dataset)

    def actors(self, dataset: Iterator[pa.Table], actor: type, count: int, **arguments: Any) -> Iterator[pa.Table]:  # noqa: ARG002
        """Call one object."""
        worker = actor(**arguments)
        return (worker(batch) for batch in dataset)


def work_off(
    job: Job[Any],
    planned: pa.Table,
    schema: pa.Schema,
    sizes: ray_session.PoolSizes,
    operators: Operators,
) -> RowFacts:
    """Bring the table of the job's instance up to date.

    Args:
        job: its instance holds the table; ``retry_dropped`` forgets what was dropped.
        planned: one row per image: ``image_id``, ``input``, ``uri`` and what the operators need.
        schema: of the table.
        sizes: of the actor pools; unless they say ``here``, Ray is connected already.
        operators: the stage's graph from planned rows to rows of the table. Its last actor writes images that cannot be
            used into ``_dropped``.

    Returns:
        The proof, the throughput of this run and the actors.

    Raises:
        RunError: the proof does not hold.
        StorageError: the run's folder cannot be written to.
    """
    instance = job.instance
    table = instance.table(schema)
    table.set_aside_damaged(identities.believed(table))
    instance.dropped.set_aside_damaged()
    remove_retired(table)
    remove_copies(table)
    if job.asked.retry_dropped:
        _forget_dropped(instance.dropped, planned)

    started, before = time.time(), also_in(planned, identities.identities(table)).num_rows
    others = table.count() - before
    with job.voice.rows(instance.name, planned.num_rows, lambda: table.count() - others):
        to_do = left(planned, table, instance.dropped)
        if to_do.num_rows:
            job.voice.say(f"  {to_do.num_rows:,} of {planned.num_rows:,} images to do; {sizes.describe()}")
            if sizes.here:
                _run_here(to_do, table, job.lock.token, sizes.rows_per_task, operators)
            else:
                _run(to_do, table, job.lock.token, ActorPools(sizes, to_do.num_rows, _DEATHS_PER_TASK), operators)
        to_do = left(planned, table, instance.dropped)
        if to_do.num_rows and not sizes.here:
            job.voice.say(f"  {to_do.num_rows:,} image(s) left over by tasks whose process died: one per task now")
            alone = ActorPools(replace(sizes, rows_per_task=1), to_do.num_rows, 0)
            errors = _run(to_do, table, job.lock.token, alone, operators)
            raise_unless_processes_died(errors)
            table.require_room()  # a disk that is full is no fault of these images
            reason = {"reason": "process died", "detail": "twice, the second time alone"}
            write_dropped(instance, [row | reason for row in left(planned, table, instance.dropped).to_pylist()])
    seconds = time.time() - started
    job.lock.check()
    remove_copies(table)
    proof = prove(planned, table, instance.dropped, before)
    new = proof.done - before
    rate = round(new / max(seconds, 1e-9), 2)
    throughput = Throughput(images=new, seconds=round(seconds, 2), images_per_s=rate)
    return RowFacts(text=str(proof), images=proof, throughput=throughput, actors=sizes.describe())


def _forget_dropped(dropped: Table, planned: pa.Table) -> None:
    """Forget that planned images were dropped, and no others, which belong to other sets."""
    kept = without(dropped.read(), planned)
    dropped.remove_all()
    if kept.num_rows:
        dropped.write_part(kept, part_name(kept))


def _run_here(rows: pa.Table, table: Table, token: str, rows_at_once: int, operators: Operators) -> None:
    batches = (rows.slice(first, rows_at_once) for first in range(0, rows.num_rows, rows_at_once))
    for part in operators(batches, OwnProcess()):
        _write(part, table, token)


def _run(rows: pa.Table, table: Table, token: str, pools: ActorPools, operators: Operators) -> list[BaseException]:
    """Work rows off on Ray Data; return the errors of tasks whose rows it went on without."""
    import ray

    ray_session.let_go_of_actors()
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = None  # one block per task: a replayed task of several can lose or double rows
    context.max_errored_blocks = -1  # lost blocks are found by subtraction and tried again one image per task
    context.execution_options.preserve_order = False
    dataset: Any = ray.data.from_arrow(rows).repartition(target_num_rows_per_block=pools.sizes.rows_per_task)
    with ray_session.frozen_when_interrupted(), errors_of_tasks(table.folder) as errors:
        troubles = operators(dataset, pools).map_batches(
            _write_or_say_why,
            fn_kwargs={"table": table, "token": token},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=_TASK_CPUS,
        )
        for batch in troubles.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for trouble in batch.to_pylist():
                raise OSError(trouble["errno"], trouble["reason"], trouble["file"])
    return errors


def _write(part: pa.Table, table: Table, token: str) -> None:
    if part.num_rows:
        table.write_part(part, part_name(part, token))


def _write_or_say_why(part: pa.Table, *, table: Table, token: str) -> pa.Table:
    """Write a part; a storage that does not take it ends the pass, where an exception would be one more block to try again."""
    rows = []
    try:
        _write(part, table, token)
    except OSError as error:
        rows = [{"errno": error.errno or errno.EIO, "reason": error.strerror or str(error), "file": error.filename}]
    return pa.Table.from_pylist(rows, schema=_TROUBLE)
