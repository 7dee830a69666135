"""What the instances of a recipe resolve to in a run folder, their keys and the sets of images that they are asked for.

They are found here, the same way for all stages, and brought up to date one after the other, as ``bringing`` does for each.

The key of an instance that makes rows has nothing of the images in it: which rows are asked for, the set says, and those that
another set had in common with it are there already. Everything else is computed from the set, whose digest is in its key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa

from pipelines.bringing import (
    Resolved,
    TooManyDroppedError,
    Work,
    bring_up_to_date,
    dropped_allowed,
    measure_and_show,
    say_dry_run,
    too_many_dropped,
)
from pipelines.engine import logs
from pipelines.engine.stage import Content, OnScalars, Options, Stage
from pipelines.engine.voice import SILENT, Voice
from pipelines.products.index import NO_SPLIT, Index, Indexed
from pipelines.recipe.keys import INDEX, with_weights
from pipelines.recipe.model import Recipe, is_from_outside
from pipelines.registry import asked_of, product_of, stage_of
from pipelines.stages.index import IndexOptions, listed
from pipelines.store.files import DamagedFileError
from pipelines.store.instances import Instance, current_instance, instance_key, rows_uri
from pipelines.store.planned import Planned, common_splits, identify
from pipelines.store.schemas import INPUT, SCHEMA_VERSION
from weaksam.config.weights import PlacedWeights, Weights
from weaksam.errors import ConfigError, DataError, RunError

Fingerprints = dict[Content, str]  # those taken so far


class Run:
    """A recipe in a run folder: what its instances resolve to, what they need, and how they are brought up to date.

    Args:
        recipe: of the instances.
        uri: absolute run folder.
        fingerprints: of data and weights, of any recipe, that were taken before and are trusted; more are added.
        given: finished instances of the run folder that stand for those of their names, whatever the recipe says.
        train_again: on the images of now, whatever ``train_again`` of the recipe says.
    """

    def __init__(
        self,
        recipe: Recipe,
        uri: str,
        fingerprints: Fingerprints | None = None,
        given: Sequence[Instance] = (),
        *,
        train_again: bool = False,
    ) -> None:
        self.recipe = recipe
        self.uri = uri
        self.fingerprints: Fingerprints = {} if fingerprints is None else fingerprints
        self._train_again = train_again
        self._known: dict[str, tuple[Stage[Any], Any]] = {}
        self._resolved: dict[str, Resolved] = {}
        self._sets: dict[str, Planned | None] = {}
        self._given = {instance.name: instance for instance in given}

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
            if name in order:
                return
            if name in trail:
                chain = " <- ".join((*trail[trail.index(name) :], name))
                raise ConfigError(
                    f"recipe {self.recipe.name}: {name} reads what is made of itself: {chain}; let one of them read another"
                )
            stage, options = self._asked(name)
            for read in stage.reads(options):
                if not self._is_given(read):
                    visit(read, (*trail, name))
            order.append(name)

        for name in names:
            visit(name, ())
        return order

    def bring(
        self, names: Sequence[str], asked: Options, voice: Voice = SILENT, on_scalars: OnScalars | None = None
    ) -> dict[str, dict[str, Any]]:
        """Bring instances up to date in the order given; what they read but the list leaves out comes first.

        Args:
            names: of instances.
            asked: what the command line adds.
            voice: for what is said meanwhile.
            on_scalars: called in this process for each row of a training's scalars.

        Returns:
            the manifest of each instance by name; empty for a dry run.

        Raises:
            TooManyDroppedError: an instance dropped more images than allowed. Its rows are kept; of what comes after it, only
                what measures and shows the rows that there are was brought up to date.
            RunError: another process holds an instance's lock, or a proof does not hold.
        """
        dropped_allowed(asked.max_dropped, 0)  # a mistake in it is told before anything is done
        manifests: dict[str, dict[str, Any]] = {}
        stopped: TooManyDroppedError | None = None
        work = Work(self.recipe.name, asked, voice, on_scalars)
        order = self.needed_for(*names)
        if INDEX not in order:
            self._check(order, voice)
        for n, name in enumerate(order):
            with logs.about(run=self.uri, stage=name):
                with voice.sign_of_life(f"{name}: reading its data and weights"):
                    resolved = self.resolve(name)
                if asked.dry_run:
                    say_dry_run(resolved, self._rows(name), work)
                elif stopped is not None:
                    measure_and_show(resolved, work, manifests)
                else:
                    manifests[name] = bring_up_to_date(resolved, work)
                    stopped = too_many_dropped(resolved.instance, manifests[name], asked.max_dropped)
            if name == INDEX:  # of which all keys are computed
                self._check(order[n + 1 :], voice)
        if stopped is not None:
            raise stopped
        return manifests

    def _check(self, names: Sequence[str], voice: Voice) -> None:
        """Refuse options that do not go together of what is still to be made, before others are made for hours."""
        for name in names:
            with voice.sign_of_life(f"{name}: reading its data and weights"):
                resolved = self.resolve(name)
            with suppress(DamagedFileError):  # what is damaged is made again
                if resolved.instance.manifest() is not None or resolved.learnt_before is not None:
                    continue
            resolved.stage.check(resolved.options)

    def _asked(self, name: str) -> tuple[Stage[Any], Any]:
        """Return the stage of an instance and the instance's options."""
        if name not in self._known:
            self._known[name] = asked_of(self.recipe, name)
        return self._known[name]

    def _resolve(self, name: str) -> Resolved:
        stage, options = self._asked(name)
        planned, read = self._planned(name), stage.images(options)
        splits = () if planned is None or stage.makes_rows(options) else planned.splits
        inputs = {n: product_of(self._input(n, splits)) for n in stage.reads(options)}
        contents = stage.contents(options)
        self.fingerprints |= {c: c.take(c.what) for c in contents.values() if c not in self.fingerprints}
        seen = {c.what: self.fingerprints[c] for c in contents.values() if isinstance(c.what, PlacedWeights)}
        options = with_weights(options, lambda weights: _as_seen(weights, seen))
        parts: dict[str, Any] = {
            "verb": stage.verb,
            "schema": SCHEMA_VERSION,
            "revision": stage.revision,
            "method": stage.method(options),
            "fingerprints": {n: self.fingerprints[content] for n, content in contents.items()},
            "reads": {n: product.instance.key for n, product in inputs.items() if not isinstance(product, Index)},
        }
        if planned is None or read is None:
            return Resolved(Instance(self.uri, name, instance_key(parts)), stage, options, parts, inputs)
        if stage.knows_classes(options):
            parts["classes"] = list(self._indexed.class_names)
        if stage.measures_by_true_boxes(self.recipe.of(name)):
            parts["true boxes"] = self._true(self._indexed.facts.truth)
        if stage.measures_by_true_masks(self.recipe.of(name)):
            parts["true masks"] = self._true(self._indexed.facts.mask_truth)
        if stage.measures_by_true_label_maps(self.recipe.of(name)):
            parts["true label maps"] = self._true(self._indexed.facts.label_map_truth)
        if not stage.makes_rows(options):
            rows = {n: product.instance.set for n, product in inputs.items() if _has_rows(n)}
            parts["images"] = {"index": planned.digest, **rows}
        instance = Instance(self.uri, name, instance_key(parts), planned)
        before = None
        if stage.trains_when_asked(options) and not self._train_again and instance.manifest() is None:
            before = _learnt_before(instance, parts, stage.product.schema)
        if before is not None:
            instance = replace(instance, key=before.key)
        return Resolved(instance, stage, options, parts, inputs, before)

    @cached_property
    def _indexed(self) -> Indexed:
        """The images of the run's data set: as the index has them, or will have."""
        given = self._given.get(INDEX)
        return _indexed(self._asked(INDEX)[1], self.instance(INDEX)) if given is None else Indexed.of(Index(given))

    def _true(self, digests: Mapping[str, str]) -> Mapping[str, str]:
        """Return what tells true annotations from others: their digests or, of an index that looked at none, the data's."""
        if digests:
            return digests
        given = self._given.get(INDEX)
        fingerprints: Mapping[str, str] = (
            self.resolve(INDEX).parts["fingerprints"] if given is None else Index(given).fingerprints
        )
        return fingerprints

    def _planned(self, name: str) -> Planned | None:
        """Return the set of images that an instance is asked for; None if it is asked for none.

        Raises:
            DataError: a split is not indexed, or an instance that is read leaves one out that it must not.
        """
        if name not in self._sets:
            self._sets[name] = self._plan(name)
        return self._sets[name]

    def _plan(self, name: str) -> Planned | None:
        if self._is_given(name):
            of = self._given_instance(name).planned
            return None if of is None else self._indexed.planned(of.columns, of.splits)
        stage, options = self._asked(name)
        read = stage.images(options)
        if read is None:
            return None
        columns, splits = set(read.columns), read.splits
        indexed = self._indexed
        unknown = [split for split in splits if split not in indexed.facts.splits]
        if unknown:
            known = ", ".join(sorted(indexed.facts.splits))
            raise DataError(f"{name}.splits: {', '.join(unknown)} not indexed; indexed are {known}")
        if read.granted:
            granted = indexed.facts.labels_granted_to
            splits = () if granted == NO_SPLIT and read.or_all else (granted,)
        if _has_rows(name):  # which are computed from those that it reads
            for above_name in filter(_has_rows, stage.reads(options)):
                above = self._planned(above_name)
                if above is None:
                    continue
                columns |= set(above.columns)
                wanted, made = (sorted(of or indexed.facts.splits) for of in (splits, above.splits))
                if read.whole and not set(wanted) <= set(made):
                    raise DataError(
                        f"{name}: expected {above_name} to be of {', '.join(wanted)}, it is of {', '.join(made)}; let it be of "
                        f"them (--set {above_name}.splits=[{','.join(sorted({*wanted, *made}))}]), or {name} of others"
                    )
                if splits and above.splits and not common_splits(splits, above.splits):
                    raise DataError(
                        f"{name}: expected {above_name} to be of {' or '.join(wanted)}, it is of {', '.join(made)} alone, so "
                        f"that there is nothing to do; let both be of the same splits (--set {above_name}.splits=…)"
                    )
                splits = common_splits(splits, above.splits)
        return self._indexed.planned(tuple(sorted(columns)), splits)

    def _rows(self, name: str) -> pa.Table | None:
        """Return the identities of the rows that an instance is asked for, written or not; None of one that makes none."""
        stage, options = self._asked(name)
        planned = self._planned(name) if stage.makes_rows(options) else None
        return None if planned is None else identify(self._indexed.images, planned.columns, planned.splits)

    def _is_given(self, name: str) -> bool:
        """Whether an instance is read as it lies in the run folder."""
        return name in self._given or (is_from_outside(name) and name not in self.recipe.instances)

    def _input(self, name: str, splits: tuple[str, ...]) -> Instance:
        """Return an instance as it is read by who is asked for some splits alone; all if none is named."""
        instance, planned = self._read(name), self._planned(name)
        if planned is None or not splits or not _has_rows(name):
            return instance
        part = self._indexed.planned(planned.columns, common_splits(planned.splits, splits))
        return replace(instance, planned=part)

    def _read(self, name: str) -> Instance:
        if not self._is_given(name):
            return self.instance(name)
        return replace(self._given_instance(name), planned=self._planned(name))

    def _given_instance(self, name: str) -> Instance:
        return self._given[name] if name in self._given else _found(self.uri, name)


@lru_cache(maxsize=2)  # of large tables; their keys say all that they depend on
def _indexed(options: IndexOptions, instance: Instance) -> Indexed:
    """Return the images of an index, finished or not: those of a sweep's settings are looked up once."""
    return listed(options, instance) if instance.manifest() is None else Indexed.of(Index(instance))


def _as_seen(weights: Weights, seen: Mapping[PlacedWeights, str]) -> Weights:
    """Return weights of which every process must find the file that the instance's key is made of."""
    if isinstance(weights, PlacedWeights) and weights in seen:
        return replace(weights, seen=seen[weights])
    return weights


def _has_rows(name: str) -> bool:
    """Whether an instance has a table whose rows say what they were computed from."""
    schema = stage_of(name).product.schema
    return schema is not None and INPUT.name in schema.names


def _found(run_uri: str, name: str) -> Instance:
    instance = current_instance(run_uri, name)
    if instance is None or instance.manifest() is None:
        raise RunError(f"{run_uri}: no finished {name}; make it first: {Instance(run_uri, name, '').mended_by}")
    for file, reason in instance.damage(product_of(instance).schema).items():
        raise DamagedFileError(instance.file(file), reason, instance.mended_by)
    return instance


def _learnt_before(instance: Instance, parts: Mapping[str, Any], schema: pa.Schema | None) -> Instance | None:
    """Return the finished training of the same method on other images that was worked on last, or None.

    A preview uses that of the run that it is a preview of. One whose files are not what was written is none.
    """

    def method(of: Mapping[str, Any]) -> dict[str, Any]:
        return {name: part for name, part in of.items() if name != "images"}

    for run_uri in dict.fromkeys((instance.run_uri, rows_uri(instance.run_uri))):
        with suppress(DamagedFileError):
            current = current_instance(run_uri, instance.name)
            if current is None or current.finished(schema) is None:
                continue
            if method((current.plan() or {}).get("parts", {})) == method(parts):
                return current
    return None
