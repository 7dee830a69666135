"""The stages by verb, and how a list of their instances is brought up to date.

Keys, plans, locks, proofs and the question what is finished already are handled here, the same way for all. A finished
instance is recognised from its manifest, which its files must not contradict, without importing torch or starting Ray.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipelines.analyse import stage as analyse
from pipelines.engine.progress import sign_of_life
from pipelines.engine.stage import Content, Job, Options, Stage
from pipelines.evaluate import stage as evaluate
from pipelines.recipe.model import Recipe, is_import, to_plain, verb_of
from pipelines.report import stage as report
from pipelines.stages import detect, index, label
from pipelines.stages.propose import stage as propose
from pipelines.stages.retrain import stage as retrain
from pipelines.stages.train_classifier import stage as train_classifier
from pipelines.stages.train_mil import stage as train_mil
from pipelines.store.dropped import dropped_by_reason
from pipelines.store.instances import Instance, Lock, current_instance, differences, instance_key
from pipelines.store.schemas import PROPOSALS, PSEUDO_LABELS, SCHEMA_VERSION
from pipelines.store.tables import DamagedFileError
from weaksam.errors import ConfigError, RunError, WeaksamError

logger = logging.getLogger(__name__)

STAGES: dict[str, Stage] = {
    "index": index.STAGE,
    "train-classifier": train_classifier.STAGE,
    "propose": propose.STAGE,
    "train-mil": train_mil.STAGE,
    "detect": detect.STAGE,
    "label": label.STAGE,
    "retrain": retrain.STAGE,
    "evaluate": evaluate.STAGE,
    "analyse": analyse.STAGE,
    "report": report.STAGE,
}
_LOADING = ("train-classifier", "propose", "train-mil", "detect", "retrain")  # verbs whose first result takes a while


class TooManyDroppedError(RunError):
    """The work is done and good rows are kept, but more images were dropped than ``--max-dropped`` allows."""

    exit_code = 3


@dataclass(frozen=True)
class Resolved:
    """An instance of this recipe with the parts that its key was made of."""

    instance: Instance
    stage: Stage
    parts: Mapping[str, Any]
    upstream: Mapping[str, Instance]


Fingerprints = dict[Content, str]  # those taken so far


def stage_of(name: str) -> Stage:
    """Return the stage of an instance ``verb[.label]``; raise ConfigError when there is no such verb."""
    verb = verb_of(name)
    if verb not in STAGES:
        raise ConfigError(f"stages: expected one of {', '.join(STAGES)} (with .label), got {name!r}")
    return STAGES[verb]


class Run:
    """A recipe in a run folder: what its instances resolve to, what they need, and how they are brought up to date.

    Args:
        recipe: of the instances.
        uri: absolute run folder.
        fingerprints: of data and weights, of any recipe, that were taken before and are trusted; more are added.
    """

    def __init__(self, recipe: Recipe, uri: str, fingerprints: Fingerprints | None = None) -> None:
        self.recipe = recipe
        self.uri = uri
        self.fingerprints: Fingerprints = {} if fingerprints is None else fingerprints
        self._resolved: dict[str, Resolved] = {}

    def resolve(self, name: str) -> Resolved:
        """Compute the key, and so the folder, of the instance ``verb`` or ``verb.label`` and of everything that it reads."""
        if name not in self._resolved:
            self._resolved[name] = self._resolve(name)
        return self._resolved[name]

    def instance(self, name: str) -> Instance:
        """Return the instance that a name resolves to."""
        return self.resolve(name).instance

    def needed_for(self, *names: str) -> list[str]:
        """Return instances and everything upstream of them, in the order in which they must run.

        Raises:
            ConfigError: an instance reads what is computed from itself.
        """
        order: list[str] = []

        def visit(name: str, trail: tuple[str, ...]) -> None:
            if name in trail:
                chain = " <- ".join((*trail[trail.index(name) :], name))
                raise ConfigError(
                    f"recipe {self.recipe.name}: {name} reads what is made of itself: {chain}; let one of them read another"
                )
            for read in stage_of(name).reads(self.recipe.of(name), name):
                if not is_import(read):
                    visit(read, (*trail, name))
            if name not in order:
                order.append(name)

        for name in names:
            visit(name, ())
        return order

    def bring(self, names: Sequence[str], options: Options, console: Console) -> dict[str, dict[str, Any]]:
        """Bring instances up to date in the order given; what they read but the list leaves out comes first.

        Returns:
            the manifest of each instance by name; empty for a dry run.

        Raises:
            TooManyDroppedError: an instance dropped more images than allowed. Its rows are kept; of what comes after it, only
                what measures and shows the rows that there are was brought up to date.
            RunError: another process holds an instance's lock, or a proof does not hold.
        """
        dropped_allowed(options.max_dropped, 0)  # a mistake in it is told before anything is done
        manifests: dict[str, dict[str, Any]] = {}
        stopped: TooManyDroppedError | None = None
        for name in self.needed_for(*names):
            with sign_of_life(console, f"{name}: reading its data and weights"):
                resolved = self.resolve(name)
            if options.dry_run:
                _print_dry_run(self.recipe, resolved, console)
            elif stopped is not None:
                _measure_and_show(self.recipe, resolved, options, console, manifests)
            else:
                manifests[name] = _bring_up_to_date(self.recipe, resolved, options, console)
                stopped = _too_many_dropped(resolved.instance, manifests[name], options.max_dropped)
        if stopped is not None:
            raise stopped
        return manifests

    def _resolve(self, name: str) -> Resolved:
        stage, seen = stage_of(name), self.recipe.of(name)
        upstream = {
            read: _imported(self.uri, read) if is_import(read) else self.instance(read)
            for read in stage.reads(seen, name)
        }
        contents = stage.contents(seen, name)
        self.fingerprints |= {c: c.take(c.what) for c in contents.values() if c not in self.fingerprints}
        parts = {
            "verb": stage.verb,
            "schema": SCHEMA_VERSION,
            "method": to_plain_mapping(stage.method(seen, name)),
            "fingerprints": {n: self.fingerprints[content] for n, content in contents.items()},
            "reads": {n: instance.key for n, instance in upstream.items()},
        }
        return Resolved(Instance(self.uri, name, instance_key(parts)), stage, parts, upstream)


def to_plain_mapping(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping of configs as plain JSON values."""
    return {name: to_plain(part) for name, part in value.items()}


def _imported(run_uri: str, name: str) -> Instance:
    instance = current_instance(run_uri, name)
    if instance is None or instance.manifest() is None:
        raise RunError(f"{run_uri}: no finished {name}; make it first: {Instance(run_uri, name, '').mended_by}")
    damage = instance.damage(PSEUDO_LABELS if label.holds_pseudo_labels(instance) else PROPOSALS)
    for file, reason in damage.items():
        raise DamagedFileError(instance.file(file), reason, instance.mended_by)
    return instance


def _bring_up_to_date(recipe: Recipe, resolved: Resolved, options: Options, console: Console) -> dict[str, Any]:
    instance, stage = resolved.instance, resolved.stage
    reads = {name: upstream.state() for name, upstream in resolved.upstream.items()}
    manifest = _finished(resolved, reads, options)
    if manifest is not None:
        console.print(f"[bold]{instance.name}[/] {instance.key} is finished: {manifest.get('text', '')}")
        instance.make_current()
        return manifest
    with Lock(instance.folder, f"weaksam {instance.name}", options.wait_s) as lock:
        manifest = _finished(resolved, reads, options)
        if manifest is not None:
            return manifest  # somebody finished it while this process waited for the lock
        _print_differences(resolved, console)
        console.print(f"[bold]{instance.name}[/] {instance.key} in {escape(instance.folder)}")
        for name, fingerprint in resolved.parts["fingerprints"].items():
            console.print(f"  {name} {fingerprint}", style="dim", highlight=False)
        instance.set_aside_damaged(stage.table)
        instance.reopen()
        instance.begin(resolved.parts)
        started = time.time()
        job = Job(
            recipe=recipe.of(instance.name),
            instance=instance,
            upstream=resolved.upstream,
            options=options,
            console=console,
            lock=lock,
        )
        loading = "; models load and processes start first" if stage.verb in _LOADING else ""
        with sign_of_life(console, f"  {instance.name} is at work{loading}"):
            summary = stage.execute(job)
        lock.check()
        summary |= {
            "seconds": round(time.time() - started, 2),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "fingerprints": resolved.parts["fingerprints"],
            "reads": reads,
            "recipe": recipe.name,
        }
        manifest = instance.finish(summary)
        if manifest.get("text"):
            console.print(f"  {manifest['text']}  [dim]({manifest['seconds']:.1f} s)[/]")
        return manifest


def _finished(resolved: Resolved, reads: Mapping[str, Any], options: Options) -> dict[str, Any] | None:
    """Return the manifest of an instance that has nothing left to do, or None."""
    manifest = resolved.instance.finished(resolved.stage.table)
    if manifest is None or manifest.get("reads") != reads:
        return None
    retry = options.retry_dropped and manifest.get("images", {}).get("dropped", 0) > 0
    return None if retry else manifest


def _print_differences(resolved: Resolved, console: Console) -> None:
    previous = resolved.instance.previous()
    try:
        plan = None if previous is None else previous.plan()
    except DamagedFileError as error:
        logger.warning("%s; what differs from it cannot be told", error)
        return
    if previous is None or plan is None:
        return
    console.print(f"[yellow]{resolved.instance.name}[/]: not the {previous.key} of before, which stays; what differs:")
    for line in differences(plan["parts"], dict(resolved.parts)):
        console.print(f"  {line}", markup=False)


def _print_dry_run(recipe: Recipe, resolved: Resolved, console: Console) -> None:
    instance, recipe = resolved.instance, recipe.of(resolved.instance.name)
    damaged = instance.damage(resolved.stage.table)
    manifest = None if damaged else instance.manifest()
    if damaged:
        state = f"damaged, would be mended. {resolved.stage.describe(recipe)}"
    elif manifest is not None:
        state = f"finished: {manifest.get('text', '')}"
    elif instance.plan() is not None:
        state = f"started, would go on. {resolved.stage.describe(recipe)}"
    else:
        state = f"would run. {resolved.stage.describe(recipe)}"
    console.print(f"[bold]{instance.name}[/] {instance.key}: {state}")


def _too_many_dropped(instance: Instance, manifest: Mapping[str, Any], max_dropped: str) -> TooManyDroppedError | None:
    proof = manifest.get("images", {})
    dropped, total = proof.get("dropped", 0), proof.get("images", 0)
    allowed = dropped_allowed(max_dropped, total)
    if dropped <= allowed:
        return None
    reasons = "".join(f"\n  {reason}" for reason in dropped_by_reason(instance))
    return TooManyDroppedError(
        f"{instance.name}: {dropped:,} of {total:,} images were dropped, {allowed:,} are allowed "
        f"(--max-dropped {max_dropped}):{reasons}\n"
        f"`weaksam dropped {instance.run_uri}` lists them all; mend the images and add --retry-dropped, or allow more."
    )


def _measure_and_show(
    recipe: Recipe, resolved: Resolved, options: Options, console: Console, manifests: dict[str, dict[str, Any]]
) -> None:
    """Bring what measures or shows finished rows up to date once a run is stopped; nothing else, and no failure counts."""
    verb, name = resolved.stage.verb, resolved.instance.name
    there = {
        n: i
        for n, i in resolved.upstream.items()
        if n in manifests or is_import(n) or verb_of(n) in report.SHOWN_UNFINISHED
    }
    if verb == report.STAGE.verb or (verb == evaluate.STAGE.verb and there == resolved.upstream):
        try:
            manifests[name] = _bring_up_to_date(recipe, replace(resolved, upstream=there), options, console)
        except WeaksamError as error:  # that images were dropped is what people must hear first
            logger.warning("%s is not made: %s", name, error)


def dropped_allowed(max_dropped: str, total: int) -> int:
    """Return how many of ``total`` images may be dropped: ``"1%"`` rounds down, ``"25"`` is a count."""
    match = re.fullmatch(r"(?P<share>\d+(\.\d+)?) ?%|(?P<count>\d+)", max_dropped.strip(), re.ASCII)
    if match is None or (match["share"] and Fraction(match["share"]) > 100):
        raise ConfigError(f"--max-dropped: expected a share like 1% or a count like 25, got {max_dropped!r}")
    return int(match["count"]) if match["count"] else int(total * Fraction(match["share"]) / 100)
