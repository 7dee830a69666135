"""What a stage is: what it reads, which part of the recipe can change its result, and how to do the work.

Everything else (keys, plans, locks, what is finished already) is the same for all stages: see ``runner``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console

from pipelines.recipe.model import Recipe
from pipelines.store.instances import Instance, Lock

if TYPE_CHECKING:
    from pipelines.stages.retrain.task import RetrainTask
    from pipelines.training.task import Progress


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line adds to a recipe; none of it can change a result."""

    dry_run: bool = False
    retry_dropped: bool = False
    max_dropped: str = "1%"  # a share of the images or a count
    address: str = ""  # of a Ray cluster; empty = RAY_ADDRESS, else this machine
    wait_s: float = 0.0  # how long to wait for a lock that another process holds
    # Called in the driver while ``retrain`` trains, for each row of its scalars: a sweep may give up on a hopeless training.
    look: Callable[[Job, RetrainTask, Progress], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One instance at work: what a stage's ``execute`` gets."""

    recipe: Recipe
    instance: Instance
    upstream: Mapping[str, Instance]  # by instance name
    options: Options
    console: Console
    lock: Lock


@dataclass(frozen=True)
class Content:
    """Data or weights from outside the run: what they are, and how their fingerprint is taken of that, which may take long."""

    what: Hashable
    take: Callable[[Any], str]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A verb of the pipeline."""

    verb: str
    help: str  # of `weaksam VERB`: what it does, in a sentence; further paragraphs say what its labels mean
    # instance names that an instance of this name reads
    reads: Callable[[Recipe, str], tuple[str, ...]]
    # the part of the recipe that can change the result
    method: Callable[[Recipe, str], Mapping[str, Any]]
    # does the work and returns what its manifest should say; "images" holds a proof where the stage writes a table
    execute: Callable[[Job], dict[str, Any]]
    # of the table that the stage writes into its instance's folder, if it writes one
    table: pa.Schema | None = None
    # what else can change it
    contents: Callable[[Recipe, str], Mapping[str, Content]] = field(default=lambda _recipe, _name: {})
    # one line per instance for --dry-run, given what is done so far
    describe: Callable[[Recipe], str] = field(default=lambda _recipe: "")
