"""Working a table stage off on Ray Data, or in this process, until every planned image is done or dropped.

Resume is subtraction: what is planned, minus the rows that the table has of these images as they are now, minus those that were
dropped as they are now. A pass goes over what is left; what it leaves (a process died, a node was lost) is tried again with the
care that ``fates`` says, on the nodes that there are by then. Nodes that cannot build an actor are avoided.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipelines.dataflow.fates import Care, Fates
from pipelines.dataflow.lost_rows import errors_of_tasks, first_of_our_code
from pipelines.dataflow.pools import TASK_CPUS, ActorPools, OwnProcess, Pools, advice_silenced
from pipelines.dataflow.watch import Watch
from pipelines.engine import interrupts, ray_session
from pipelines.engine import nodes as cluster
from pipelines.engine.notes import Kind, Notes
from pipelines.engine.reach import Reach, reach
from pipelines.engine.sizes import PoolSizes, pool_sizes
from pipelines.engine.stage import Job
from pipelines.engine.voice import Tone, Toned
from pipelines.products.rows import RowFacts, Throughput
from pipelines.recipe.config import ResourcesConfig
from pipelines.store import identities
from pipelines.store.compaction import remove_retired
from pipelines.store.copies import remove_copies
from pipelines.store.dropped import write_dropped
from pipelines.store.explain import AGAIN, explain, last_line
from pipelines.store.planned import also_in, without
from pipelines.store.proof import left, prove
from pipelines.store.tables import Table, part_name
from weaksam.errors import RunError

Operators = Callable[[Any, Pools], Any]  # from planned rows to rows of the table

_FRUITLESS = 3  # passes in a row that come to nothing, before the work is given up
_HOW = {Care.TOGETHER: "again", Care.ALONE: "one per task", Care.BY_ITSELF: "one at a time"}
# Of a part: null where it was written, else what the storage said.
_OUTCOME = pa.schema([("errno", pa.int32()), ("reason", pa.string()), ("file", pa.string())])


def work_off(
    job: Job[Any],
    planned: pa.Table,
    schema: pa.Schema,
    resources: ResourcesConfig,
    operators: Operators,
    *,
    with_clues: bool = False,
) -> RowFacts:
    """Bring the table of the job's instance up to date.

    Args:
        job: its instance holds the table; ``retry_dropped`` forgets what was dropped.
        planned: one row per image: ``image_id``, ``input``, ``uri`` and what the operators need.
        schema: of the table.
        resources: what the pools may take; unless they say ``here``, Ray is joined or started if there is something to do.
        operators: the stage's graph from planned rows to rows of the table. Its last actor writes images that cannot be
            used into ``_dropped``.
        with_clues: a clue network works beside another one.

    Returns:
        The proof, the throughput of this run and the actors.

    Raises:
        ConfigError: the cluster does not have the device that the resources want.
        RunError: the proof does not hold, or no node can build the actors.
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
        actors = _Work(job, planned, table, resources, operators, with_clues).to_the_end()
    seconds = time.time() - started
    job.lock.check()
    remove_copies(table)
    proof = prove(planned, table, instance.dropped, before)
    new = proof.done - before
    rate = round(new / max(seconds, 1e-9), 2)
    throughput = Throughput(images=new, seconds=round(seconds, 2), images_per_s=rate)
    return RowFacts(text=str(proof), images=proof, throughput=throughput, actors=actors)


@dataclass(frozen=True, kw_only=True)
class _End:
    """How a pass ended."""

    errors: Sequence[BaseException]  # of what Ray Data went on without, or the one that ended it early
    early: bool


class _Work:
    """Passes over what is left of the planned images."""

    def __init__(
        self,
        job: Job[Any],
        planned: pa.Table,
        table: Table,
        resources: ResourcesConfig,
        operators: Operators,
        with_clues: bool,
    ) -> None:
        self._job = job
        self._planned = planned
        self._table = table
        self._resources = resources
        self._operators = operators
        self._with_clues = with_clues
        self._fates = Fates()
        self._unfit: dict[str, str] = {}  # nodes that cannot build one, and why
        self._failed_before = False  # our own code, in the last pass
        self._last_error = ""

    def to_the_end(self) -> str:
        """Go on until nothing is left; return for people what worked."""
        ray_session.connect(self._resources, self._job.asked.address)
        told, fruitless, to_do, resources = "", 0, self._left(), self._resources
        while to_do.num_rows:
            rows, care = self._fates.next(to_do)
            room = reach(resources, self._job.voice, avoided=self._unfit)
            # Once decided: a cluster whose last GPU is taken away between two passes is waited for.
            resources = replace(resources, device=room.device)
            sizes = pool_sizes(resources, rows.num_rows, self._with_clues, room)
            if care is not Care.TOGETHER:
                sizes = replace(sizes, rows_per_task=1)
            self._say(rows.num_rows, care, sizes, first=not told)
            told = told or sizes.describe()
            if sizes.here:
                self._here(rows, sizes)
                return told
            pools = ActorPools(
                sizes=sizes, rows=rows.num_rows, care=care, notes=Notes(), avoided=tuple(sorted(self._unfit))
            )
            before, wiser = to_do.num_rows, self._attempt(rows, pools, room)
            to_do = self._left()
            fruitless = 0 if wiser or to_do.num_rows < before else fruitless + 1
            if fruitless == _FRUITLESS:
                raise RunError(
                    f"{self._job.instance.name}: {_FRUITLESS} passes in a row came to nothing, {to_do.num_rows:,} images are "
                    f"left: {self._last_error or 'nothing was said'}. Ray's logs may say why; {AGAIN}"
                )
        return told

    def _attempt(self, rows: pa.Table, pools: ActorPools, room: Reach) -> bool:
        """Work rows off in a pass; return whether it taught something. Errors end with it, for they hold the pass's actors."""
        end = self._pass(rows, pools, room)  # after an interrupt Ray is halted, and takes no note away
        self._last_error = last_line(end.errors[0]) if end.errors else ""
        try:
            if end.early:
                return self._judge_node(end.errors[0], pools)
            return self._judge_images(end.errors, pools.notes)
        finally:
            pools.notes.remove()

    def _left(self) -> pa.Table:
        return left(self._planned, self._table, self._job.instance.dropped)

    def _say(self, rows: int, care: Care, sizes: PoolSizes, *, first: bool) -> None:
        if first:
            what = f"{rows:,} of {self._planned.num_rows:,} images to do"
        else:
            what = f"{rows:,} image(s) left over, {_HOW[care]} now"
        self._job.voice.say(f"  {what}; {sizes.describe()}")

    def _here(self, rows: pa.Table, sizes: PoolSizes) -> None:
        at_once = sizes.rows_per_task
        batches = (rows.slice(first, at_once) for first in range(0, rows.num_rows, at_once))
        for part in self._operators(batches, OwnProcess(sizes)):
            _write(part, self._table, self._job.lock.token)

    def _pass(self, rows: pa.Table, pools: ActorPools, room: Reach) -> _End:
        """Work rows off on Ray Data; rows of processes that died are left."""
        import ray

        ray_session.let_go_of_actors()
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = None  # one block per task: a replayed task of several can lose or double rows
        context.max_errored_blocks = -1  # lost blocks are found by subtraction and tried again
        context.execution_options.preserve_order = False
        # Ray Data keeps this share of the CPUs apart for its operators in equal parts; those that read and write take little.
        context.op_resource_reservation_ratio = 0.2
        context.execution_no_progress_timeout_s = -1  # droughts of spot machines last longer than its half an hour
        # A block for each task, made here: ``repartition`` would ask for a whole CPU, which actors leave on no small node.
        at_once = pools.sizes.rows_per_task
        dataset: Any = ray.data.from_blocks([rows.slice(n, at_once) for n in range(0, rows.num_rows, at_once)])
        try:
            with (
                advice_silenced(),
                ray_session.frozen_when_interrupted(),
                self._watched(pools, room) as task_ended,
                errors_of_tasks(self._table.folder) as errors,
            ):
                outcomes = self._operators(dataset, pools).map_batches(
                    pools.notes.of_function(_write_or_say_why),
                    fn_kwargs={"table": self._table, "token": self._job.lock.token},
                    batch_size=None,
                    batch_format="pyarrow",
                    num_cpus=TASK_CPUS,
                )
                for batch in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    for outcome in batch.to_pylist():
                        if outcome["errno"] is not None:
                            raise OSError(outcome["errno"], outcome["reason"], outcome["file"])
                        task_ended()
        except Exception as error:
            if first_of_our_code([error]) is not None:
                raise
            return _End(errors=[error], early=True)
        return _End(errors=errors, early=False)

    @contextmanager
    def _watched(self, pools: ActorPools, room: Reach) -> Iterator[Callable[[], None]]:
        """Look after the cluster while the body runs a pass; give what the body calls when a task has ended."""
        if not room.grows:
            yield lambda: None
            return
        with interrupts.revocable() as give_up:
            watch = Watch(
                pools.notes,
                self._job.voice,
                pools.bundle,
                most=pools.most if room.starts_nodes else 0,
                tasks_left=pools.batches,
                wait_s=self._resources.wait_for_workers,
                give_up=give_up,
            )
            with watch.on():
                yield watch.task_ended

    def _judge_images(self, errors: Sequence[BaseException], notes: Notes) -> bool:
        """Find out which images of those left over processes or nodes ended with; return whether there are any.

        Raises:
            Exception: of a stage's own code, in two passes in a row.
        """
        error = first_of_our_code(errors)
        if error is not None and self._failed_before:
            raise error
        self._failed_before = error is not None
        left_over = self._left()
        ids = set(left_over["image_id"].to_pylist())
        at_work = [note for note in notes.read(Kind.AT_WORK) if not ids.isdisjoint(note.image_ids)]
        alive = {node_id: cluster.lives(node_id) for node_id in {note.node_id for note in at_work}}
        died = {i for note in at_work if alive[note.node_id] for i in note.image_ids} & ids
        lost = {i for note in at_work if not alive[note.node_id] for i in note.image_ids} & ids
        if died:
            self._table.require_room()  # a disk that is full is no fault of these images
        reasons = self._fates.learn(died, lost)
        rows = [row for row in left_over.to_pylist() if row["image_id"] in reasons]
        write_dropped(self._job.instance, [{**row, **reasons[row["image_id"]]} for row in rows])
        return bool(died or lost)

    def _judge_node(self, error: BaseException, pools: ActorPools) -> bool:
        """Find out where an actor could not be built; return whether the next pass goes elsewhere.

        Images that were at work ended with the pass, and are not to blame.

        Raises:
            Exception: it cannot be built anywhere.
        """
        unfit = {note.node_id: note.reason for note in pools.notes.read(Kind.UNFIT)}
        self._unfit.update(unfit)
        alive = {node.node_id: node for node in cluster.nodes() if (node.gpus if pools.sizes.gpu_share else node.cpus)}
        if unfit and not alive.keys() - self._unfit:
            reason = next(iter(unfit.values()))
            name = self._job.instance.name
            raise explain(error) or RunError(f"no node can build the actors of {name}: {reason}") from error
        for node_id, reason in unfit.items():
            where = alive.get(node_id, node_id)
            self._job.voice.say(
                Toned(f"  the node {where} cannot build an actor, and is avoided: {reason}", Tone.WARNING)
            )
        return bool(unfit)


def _forget_dropped(dropped: Table, planned: pa.Table) -> None:
    """Forget that planned images were dropped, and no others, which belong to other sets."""
    kept = without(dropped.read(), planned)
    dropped.remove_all()
    if kept.num_rows:
        dropped.write_part(kept, part_name(kept))


def _write(part: pa.Table, table: Table, token: str) -> None:
    if part.num_rows:
        table.write_part(part, part_name(part, token))


def _write_or_say_why(part: pa.Table, *, table: Table, token: str) -> pa.Table:
    """Write a part; a storage that does not take it ends the pass, where an exception would be one more block to try again."""
    outcome: dict[str, Any] = {}
    try:
        _write(part, table, token)
    except OSError as error:
        outcome = {"errno": error.errno or errno.EIO, "reason": error.strerror or str(error), "file": error.filename}
    return pa.Table.from_pylist([outcome], schema=_OUTCOME)
