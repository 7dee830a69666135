"""How one stage instance is brought up to date: locks, plans, proofs, and the question whether it is finished already.

A finished instance is recognised from its manifest, which its files must not contradict; that needs neither torch nor Ray.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pyarrow as pa

from pipelines.engine import interrupts, metrics
from pipelines.engine.figures import Figures, Measured
from pipelines.engine.product import Product
from pipelines.engine.stage import Job, OnScalars, Options, Stage, WhenStopped
from pipelines.engine.voice import Tone, Toned, Voice
from pipelines.products.index import Index
from pipelines.recipe.model import is_from_outside
from pipelines.store.dropped import dropped_by_reason
from pipelines.store.files import DamagedFileError
from pipelines.store.instances import Instance, differences
from pipelines.store.lock import Lock
from pipelines.store.proof import left
from weaksam.errors import ConfigError, RunError, WeaksamError

logger = logging.getLogger(__name__)


class TooManyDroppedError(RunError):
    """The work is done and good rows are kept, but more images were dropped than ``--max-dropped`` allows."""

    exit_code = 3


@dataclass(frozen=True)
class Resolved:
    """An instance of this recipe with the parts that its key was made of."""

    instance: Instance
    stage: Stage[Any]
    options: Any  # of the stage
    parts: Mapping[str, Any]
    inputs: Mapping[str, Product[Any]]  # what it reads, by instance name
    learnt_before: Instance | None = None  # a finished training on other images, which is used as it is

    def read(self) -> dict[str, Any]:
        """Return what is found in the instances that are read; what is read of the index, the set says."""
        return {name: p.instance.state() for name, p in self.inputs.items() if not isinstance(p, Index)}


@dataclass(frozen=True)
class Work:
    """What is the same for all instances that are brought up to date together."""

    recipe_name: str
    asked: Options
    voice: Voice
    on_scalars: OnScalars | None


def bring_up_to_date(resolved: Resolved, work: Work) -> dict[str, Any]:
    """Return the manifest of an instance, which is made first unless it is finished.

    Raises:
        RunError: another process holds its lock, or its proof does not hold.
    """
    instance, stage, voice = resolved.instance, resolved.stage, work.voice
    reads = resolved.read()
    manifest = _finished(resolved, reads, work.asked)
    if manifest is None and resolved.learnt_before is not None:
        with Lock(instance.folder, f"weaksam {instance.name}", work.asked.wait_s):
            manifest = instance.stand_for(resolved.learnt_before)
    if manifest is not None:
        voice.say(Toned(instance.name, Tone.NAME), f" {instance.key} is finished: {manifest.get('text', '')}")
        instance.make_current()
        return manifest
    with (
        interrupts.revocable() as revoke,
        Lock(instance.folder, f"weaksam {instance.name}", work.asked.wait_s, revoke) as lock,
    ):
        manifest = _finished(resolved, reads, work.asked)
        if manifest is not None:
            return manifest  # somebody finished it while this process waited for the lock
        _say_differences(resolved, voice)
        voice.say(Toned(instance.name, Tone.NAME), f" {instance.key} in {instance.folder}")
        for name, fingerprint in resolved.parts["fingerprints"].items():
            voice.say(Toned(f"  {name} {fingerprint}", Tone.QUIET))
        instance.set_aside_damaged(stage.product.schema)
        instance.reopen()
        instance.begin(resolved.parts, make_current=not stage.replaces_when_finished)
        started = time.time()
        loading = "; models load and processes start first" if stage.loads_models else ""
        with voice.sign_of_life(f"  {instance.name} is at work{loading}"), metrics.of_stage(instance) as set_metrics:

            def tell(figures: Figures) -> None:
                lock.tell(figures.to_plain())
                set_metrics(figures)

            job = Job(
                options=resolved.options,
                instance=instance,
                inputs=resolved.inputs,
                asked=work.asked,
                lock=lock,
                voice=Measured(voice, tell),
                on_scalars=work.on_scalars,
            )
            facts = stage.run(job)
        lock.check()
        summary = facts.to_plain() | {
            "seconds": round(time.time() - started, 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "fingerprints": resolved.parts["fingerprints"],
            "reads": reads,
            "recipe": work.recipe_name,
        }
        manifest = instance.finish(summary)
        instance.make_current()
        if manifest.get("text"):
            voice.say(f"  {manifest['text']}  ", Toned(f"({manifest['seconds']:.1f} s)", Tone.QUIET))
        return manifest


def _finished(resolved: Resolved, reads: Mapping[str, Any], options: Options) -> dict[str, Any] | None:
    """Return the manifest of an instance that has nothing left to do, or None."""
    manifest = resolved.instance.finished(resolved.stage.product.schema)
    if manifest is None or resolved.learnt_before is not None:
        return manifest  # a training that is used as it is neither reads again nor retries
    if manifest.get("reads") != reads:
        return None
    retry = options.retry_dropped and manifest.get("images", {}).get("dropped", 0) > 0
    return None if retry else manifest


def _say_differences(resolved: Resolved, voice: Voice) -> None:
    previous = resolved.instance.previous()
    try:
        plan = None if previous is None else previous.plan()
    except DamagedFileError as error:
        logger.warning("%s; what differs from it cannot be told", error)
        return
    if previous is None or plan is None:
        return
    name = Toned(resolved.instance.name, Tone.NOTICE)
    voice.say(name, f": not the {previous.key} of before, which stays; what differs:")
    for line in differences(plan["parts"], dict(resolved.parts)):
        voice.say(f"  {line}")


def say_dry_run(resolved: Resolved, planned: pa.Table | None, work: Work) -> None:
    """Say what would be done for an instance.

    Args:
        resolved: the instance.
        planned: identities of the rows that it is asked for; None of one that makes no rows.
        work: that it is part of.
    """
    instance, what = resolved.instance, resolved.stage.describe(resolved.options)
    damaged = instance.damage(resolved.stage.product.schema)
    manifest = None if damaged else _finished(resolved, resolved.read(), work.asked)
    if damaged:
        state = f"damaged, would be mended. {what}"
    elif manifest is not None:
        state = f"finished: {manifest.get('text', '')}"
    else:
        state = "started, would go on. " if instance.plan() is not None else "would run. "
        if planned is not None and (schema := resolved.stage.product.schema) is not None:
            tables = [instance.table(schema), *([] if work.asked.retry_dropped else [instance.dropped])]
            to_do = left(planned, *tables).num_rows
            state += f"{to_do:,} of {planned.num_rows:,} images to do. "
        state += what
    work.voice.say(Toned(instance.name, Tone.NAME), f" {instance.key}: {state}")


def too_many_dropped(instance: Instance, manifest: Mapping[str, Any], max_dropped: str) -> TooManyDroppedError | None:
    """Return what to raise where an instance dropped more images than allowed; None where it did not."""
    proof = manifest.get("images", {})
    dropped, total = proof.get("dropped", 0), proof.get("images", 0)
    allowed = dropped_allowed(max_dropped, total)
    if dropped <= allowed:
        return None
    reasons = "".join(f"\n  {reason}" for reason in dropped_by_reason(instance))
    return TooManyDroppedError(
        f"{instance.name}: {dropped:,} of {total:,} images were dropped, {allowed:,} are allowed "
        f"(--max-dropped {max_dropped}):{reasons}\n"
        f"`weaksam dropped {instance.run_uri}` lists them all; mend the images, and the same command tries them again, or "
        "allow more."
    )


def measure_and_show(resolved: Resolved, work: Work, manifests: dict[str, dict[str, Any]]) -> None:
    """Bring what measures or shows finished rows up to date once a run is stopped; nothing else, and no failure counts."""
    name, when = resolved.instance.name, resolved.stage.when_stopped
    there = {n: p for n, p in resolved.inputs.items() if n in manifests or is_from_outside(n) or p.shown_unfinished}
    if when is WhenStopped.SHOW or (when is WhenStopped.MEASURE and there == resolved.inputs):
        try:
            manifests[name] = bring_up_to_date(replace(resolved, inputs=there), work)
        except WeaksamError as error:  # that images were dropped is what people must hear first
            logger.warning("%s is not made: %s", name, error)


def dropped_allowed(max_dropped: str, total: int) -> int:
    """Return how many of ``total`` images may be dropped.

    A count like ``"25"``, or a share like ``"1%"``, which rounds up: even of few images one may.
    """
    match = re.fullmatch(r"(?P<share>\d+(\.\d+)?) ?%|(?P<count>\d+)", max_dropped.strip(), re.ASCII)
    if match is None or (match["share"] and Fraction(match["share"]) > 100):
        raise ConfigError(f"--max-dropped: expected a share like 1% or a count like 25, got {max_dropped!r}")
    return int(match["count"]) if match["count"] else math.ceil(total * Fraction(match["share"]) / 100)
