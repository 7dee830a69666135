"""Recipes: YAML files that say everything about a run except where it reads and writes.

A recipe is the tree of the component dataclasses of ``weaksam.config`` and ``recipe.config``; unknown names, wrong types and
impossible combinations are errors that name the file and the nearest valid name, before anything starts. ``base`` lists
recipes that are merged first, left to right; then come the file's own values, then ``--set a.b=c``.

A section holds the options of a verb. An instance of the verb, ``verb.label``, may have options of its own, which lie over
the section: ``Recipe.of`` returns the recipe as that instance sees it. A label is a name and nothing else.
"""

from __future__ import annotations

import copy
import difflib
import json
import os
import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)

from pipelines.recipe.config import (
    AnalyseConfig,
    DetectStageConfig,
    EvaluateConfig,
    ImportConfig,
    ImportMasksConfig,
    LabelConfig,
    PredictMapsStageConfig,
    ProposeConfig,
    ReportConfig,
    ResourcesConfig,
    RetrainedDetectStageConfig,
    RetrainStageConfig,
    SeedStageConfig,
    SegmentStageConfig,
    SuperpixelsConfig,
    TrainClassifierConfig,
    TrainMilConfig,
    TrainPromptsConfig,
    TrainSegmenterConfig,
    TrueBoxesConfig,
)
from pipelines.recipe.explain import explain
from pipelines.recipe.keys import to_plain
from pipelines.recipe.yaml_text import mapping_in, parse, read_mapping
from weaksam.config import (
    ClipConfig,
    CluesConfig,
    DataConfig,
    PromptsConfig,
    ProposalsConfig,
    SamConfig,
    SelectiveSearchConfig,
    WeightsConfig,
)
from weaksam.config.choices import Choice, Member
from weaksam.errors import ConfigError
from weaksam.io.files import is_remote, read_text
from weaksam.registry import Registry

STANDARD = "standard.yaml"  # every recipe's first base: what the instances that shipped recipes list are
# The section of a verb's options, where it has another name than the verb.
_SECTIONS = {
    "index": "data",
    "import": "imports",
    "true-boxes": "true_boxes",
    "train-classifier": "classifier",
    "train-mil": "mil",
    "train-segmenter": "segmenter",
    "label": "pseudo_labels",
}


class _Seen(dict[str, "Recipe"]):
    """What instances see of a recipe, once looked up. It makes no recipe another one, and goes nowhere with it."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Seen)

    def __reduce__(self) -> tuple[type[_Seen], tuple[()]]:
        return _Seen, ()


class Recipe(BaseModel):
    """Everything that a run is told, validated; see each part's dataclass for units and sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    stages: tuple[str, ...]  # stage instances ``verb[.label]`` in order
    # Options of instances, over the sections of their verbs; those that ``stages`` does not list are made where they are read.
    instances: dict[str, dict[str, Any]] = Field(default_factory=lambda: standard_instances())
    data: DataConfig = Field(default_factory=DataConfig)
    clues: CluesConfig = Field(default_factory=CluesConfig)
    classifier: TrainClassifierConfig = Field(default_factory=TrainClassifierConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    sam: SamConfig = Field(default_factory=SamConfig)
    proposals: ProposalsConfig = Field(default_factory=ProposalsConfig)
    propose: ProposeConfig = Field(default_factory=ProposeConfig)
    selective_search: SelectiveSearchConfig = Field(default_factory=SelectiveSearchConfig)
    imports: ImportConfig = Field(default_factory=ImportConfig)
    import_masks: ImportMasksConfig = Field(default_factory=ImportMasksConfig)
    true_boxes: TrueBoxesConfig = Field(default_factory=TrueBoxesConfig)
    mil: TrainMilConfig = Field(default_factory=TrainMilConfig)
    detect: DetectStageConfig = Field(default_factory=DetectStageConfig)
    pseudo_labels: LabelConfig = Field(default_factory=LabelConfig)
    segment: SegmentStageConfig = Field(default_factory=SegmentStageConfig)
    superpixels: SuperpixelsConfig = Field(default_factory=SuperpixelsConfig)
    retrain: RetrainStageConfig = Field(default_factory=RetrainStageConfig)
    clip: ClipConfig = Field(default_factory=ClipConfig)
    train_prompts: TrainPromptsConfig = Field(default_factory=TrainPromptsConfig)
    seeds: SeedStageConfig = Field(default_factory=SeedStageConfig)
    segmenter: TrainSegmenterConfig = Field(default_factory=TrainSegmenterConfig)
    predict_maps: PredictMapsStageConfig = Field(default_factory=PredictMapsStageConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    analyse: AnalyseConfig = Field(default_factory=AnalyseConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)
    weights: WeightsConfig = Field(default_factory=WeightsConfig)
    _whole: Recipe | None = PrivateAttr(None)  # of one that an instance sees: what all instances see
    _seen: _Seen = PrivateAttr(default_factory=_Seen)  # of the whole

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """See pydantic; what instances see of the copy is looked up anew."""
        copy = super().model_copy(update=update, deep=deep)
        copy._seen = _Seen()
        return copy

    def of(self, name: str) -> Recipe:
        """Return the recipe as the instance ``name`` sees it: its own options lie over the sections.

        They are options of its verb's section, or of sections that its verb reads, too (``prompts: {points_per_side: 16}``).

        Raises:
            ConfigError: there is no such instance, or an option of it is unknown or has no such value.
        """
        whole = self._whole or self
        return whole._seen[name] if name in whole._seen else whole._seen_by(name, f"recipe {self.name}", {})

    def _seen_by(self, name: str, what: str, origins: Mapping[str, str]) -> Recipe:
        """See ``of``, of the whole; ``what`` this is, and where its values came from, is said in messages."""
        given = self.instances.get(name)
        if given is None and "." in name and not is_from_outside(name):
            close = difflib.get_close_matches(name, self.instances, n=1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise ConfigError(f"{what}: no instance {name}{hint} {self._how_to_begin(name)}")
        if given and verb_of(name) == "index":  # true boxes are read of the same data, by other instances
            raise ConfigError(
                f"{what}: instances.{name}: expected no options, got {', '.join(given)}; set them in data"
            )
        changed = {}
        for part, (section, values) in self._overlays(name, given or {}).items():
            field = part or _section(name)
            path = f"instances.{name}{f'.{part}' if part else ''}" if values else field
            changed[field] = _overlaid(section, values, what, field, path, origins)
            _check_reads(changed[field], what, path)
        seen = self.model_copy(update=changed)
        seen._whole = self
        self._seen[name] = seen
        return seen

    def _how_to_begin(self, name: str) -> str:
        """Say how there would be a new instance: by what it reads, else by any option, as its verb's section has it now."""
        verb, section = verb_of(name), getattr(self, _section(name), None)
        if section is None or verb == "index" or not fields(section):
            return f"Leave the label out: {verb} has no options to be told apart by"
        saying = [option for option in fields(section) if getattr(section, option.name)]
        reading = [option for option in saying if "verbs" in option.metadata]
        option = (reading or saying or fields(section))[0].name
        value = to_plain(getattr(section, option))
        first = value[0] if isinstance(value, list) and value else value or repr(value)
        return f"Say {'what it reads' if reading else 'an option of it'}, such as --set {name}.{option}={first}"

    def _overlays(self, name: str, given: Mapping[str, Any]) -> dict[str, tuple[Any, Mapping[str, Any]]]:
        """Return the sections that an instance sees differently, with its own values; "" is its verb's section."""
        if _section(name) not in type(self).model_fields:
            return {}
        own = getattr(self, _section(name))
        if verb_of(name) == "detect" and verb_of(model := str(given.get("model", own.model))) == "retrain":
            own = self._of_retrained(model, own)
        options = {f.name for f in fields(own)}
        read = {part for part, verbs in _PARTS.items() if verb_of(name) in verbs or verb_of(name) in _OTHERS}
        parts = {part: values for part, values in given.items() if part in read - options}
        rest = {option: value for option, value in given.items() if option not in parts}
        return {"": (own, rest), **{part: (getattr(self, part), values) for part, values in parts.items()}}

    def _of_retrained(self, model: str, own: DetectStageConfig) -> RetrainedDetectStageConfig:
        """Return how a detector of ``retrain`` is run over images where the instance that runs it says nothing."""
        test = self.of(model).retrain.test
        reads = {f.name: getattr(own, f.name) for f in fields(DetectStageConfig) if not hasattr(test, f.name)}
        return RetrainedDetectStageConfig(**{f.name: getattr(test, f.name) for f in fields(test)}, **reads)

    @property
    def uses_clues(self) -> bool:
        """Whether proposals ask a clue source where to look."""
        return self.propose.method == "sam" and bool(self.clues.source.kinds)

    def place_of(self, path: str) -> tuple[Any, list[str]]:
        """Return where the value at a path ``a.b`` of an override is, this recipe or an instance's view, and its path there.

        Of an instance that there is not yet, all is as its verb's section says.
        """
        parts, known = path.split("."), {*self.stages, *self.instances}
        if not _is_of_instance(parts, known):
            return self, parts
        name, rest = ".".join(parts[:2]), parts[2:]
        seen = self.of(name) if name in known else self
        return seen, rest if rest[0] in _PARTS else [_section(name), *rest]

    def section_of(self, name: str) -> Any:
        """Return the section of the verb of the instance ``name``, as the instance sees it."""
        return getattr(self.of(name), _section(name))

    @model_validator(mode="after")
    def _sources_can_be_made(self) -> Recipe:
        source = self.clues.source
        kinds = ("grid", *source.kinds)
        empty = [kind for kind in self.prompts.sources if kind not in kinds]
        if empty:
            raise ValueError(
                f"prompts.sources: {', '.join(empty)} cannot come from clues.source: {source.name}, which makes "
                f"{', '.join(kinds[1:]) or 'no maps'}; choose another clues.source or drop the source of prompts"
            )
        return self


_OTHERS: Registry[Any] = Registry("weaksam.stages", {})  # the stages of other packages, by verb


@cache
def recipe_type() -> type[Recipe]:
    """Return what recipes are read as: ``Recipe``, with a section for each stage of another package that has options."""
    sections = {_section(verb): stage.section for verb, stage in _OTHERS.items() if stage.section is not None}
    more: dict[str, Any] = {name: (section, Field(default_factory=section)) for name, section in sections.items()}
    return create_model("Recipe", __base__=Recipe, **more) if more else Recipe


# Sections that are no verb's own -> the verbs whose instances read them, and so may have their own of each.
_PARTS = {
    "clues": ("train-classifier", "propose", "seeds"),
    **dict.fromkeys(("prompts", "proposals", "selective_search"), ("propose",)),
    "sam": ("propose", "segment", "superpixels"),
    "clip": ("train-prompts", "seeds"),
    "resources": (
        "train-classifier",
        "propose",
        "train-mil",
        "detect",
        "segment",
        "superpixels",
        "retrain",
        "train-prompts",
        "seeds",
        "train-segmenter",
        "predict-maps",
        "analyse",
    ),
}


def verb_of(name: str) -> str:
    """Return the verb of an instance ``verb[.label]``."""
    return name.partition(".")[0]


def label_of(name: str) -> str:
    """Return the label of an instance ``verb[.label]``, "" if it has none: for people, and never to branch on."""
    return name.partition(".")[2]


def is_from_outside(name: str) -> bool:
    """Whether an instance may be there although the recipe does not say how it is made: commands of their own make those."""
    return verb_of(name) in ("import", "import-masks", "true-boxes")


def _check_reads(section: Any, what: str, path: str) -> None:
    """Raise ConfigError for an option that names an instance of a verb whose product is no such thing."""
    for option in (option for option in fields(section) if "verbs" in option.metadata):
        value = getattr(section, option.name)
        for name in (value,) if isinstance(value, str) else value:
            if verb_of(name) not in option.metadata["verbs"] and verb_of(name) not in _OTHERS:
                verbs = " or ".join(verb or '""' for verb in option.metadata["verbs"])
                raise ConfigError(f"{what}: {path}.{option.name}: expected an instance of {verbs}, got {name!r}")


def _section(name: str) -> str:
    """Return the section of an instance's verb."""
    return _SECTIONS.get(verb_of(name), verb_of(name).replace("-", "_"))


def _overlaid(section: Any, values: Any, what: str, field: str, path: str, origins: Mapping[str, str]) -> Any:
    """Return the section ``field`` with some options replaced; raise ConfigError for what it does not take."""
    if values == {}:
        return section
    plain = _merge(to_plain(section), values, {}, "", (field,))
    kind: type = type(section)
    try:
        given = json.dumps({path: plain}, default=str)
        return dict(_at(path, kind).model_validate_json(given, strict=True, context=_read_options))["options"]
    except ValidationError as error:
        names_at = partial(options_at, kind, plain)
        raise ConfigError(explain(error, what, lambda found: names_at(found[1:]), origins)) from error


@cache  # making a validator takes longer than most of its uses, and a sweep reads thousands of recipes
def _at(path: str, section: type) -> type[BaseModel]:
    """Return what the options of a section are read as, so that what is wrong is told by its path in the recipe."""
    return create_model("Overlay", __config__=ConfigDict(extra="forbid"), options=(section, Field(alias=path)))


def _read_options(kind: type[Member], values: Any) -> Member:
    """Read the options of the member of a family that a recipe chooses; see ``Choice``."""
    member: type = kind
    return _of_member(member).validate_json(json.dumps(values, default=str), strict=True)


@cache
def _of_member(kind: type) -> TypeAdapter[Member]:
    return TypeAdapter(kind)


@dataclass(frozen=True)
class RecipeSource:
    """What a recipe's file and its bases say, merged; recipes with other values are made of it without reading them again."""

    asked_for: str  # the file or name that people gave
    values: Mapping[str, Any]
    origins: Mapping[str, str]  # value given (``a.b``) -> file that it came from

    def recipe(
        self, overrides: Sequence[str] = (), data_uri: str = "", origin: str = "--set"
    ) -> tuple[Recipe, dict[str, str]]:
        """Validate; see ``load_recipe``. ``origin`` is where the overrides come from, for messages."""
        values, origins = dict(self.values), dict(self.origins)
        known = {name for part in ("instances", "stages") for name in _names_of(values.get(part))}
        items = [(*_parse_override(item, known), origin) for item in overrides]
        if data_uri:
            items.append((["data", "uri"], data_uri, "--data"))
        for path, value, given_by in items:
            nested: Any = value
            for part in reversed(path):
                nested = {part: nested}
            values = _merge(values, nested, origins, given_by)
        try:
            recipe = recipe_type().model_validate_json(
                json.dumps(values, default=str), strict=True, context=_read_options
            )
        except ValidationError as error:
            names_at = partial(options_at, recipe_type(), values)
            raise ConfigError(explain(error, f"recipe {self.asked_for}", names_at, origins)) from error
        for name in dict.fromkeys((*recipe.stages, *recipe.instances)):
            recipe._seen_by(name, f"recipe {self.asked_for}", origins)  # a mistake in its options is an error now
        return recipe, origins


def _names_of(part: Any) -> list[str]:
    """Return the names that ``stages`` or ``instances`` hold, before anybody has checked what they are."""
    return [name for name in part if isinstance(name, str)] if isinstance(part, list | dict) else []


def read_recipe(path_or_name: str, presets: Sequence[str] = ()) -> RecipeSource:
    """Read a recipe's file and its bases, and lay presets over it, each a file or a shipped recipe's name.

    A file in a bucket is that of a run; its bases, if it has any, are shipped recipes.

    Raises:
        ConfigError: there is no such file, it is malformed, or its bases form a cycle.
    """
    if is_remote(path_or_name):
        own = mapping_in(read_text(path_or_name), path_or_name, "recipe fields")
        loaded = _on_bases(own, path_or_name, None, ())
    else:
        loaded = _load(find_recipe(path_or_name), ())
    origins: dict[str, str] = {}
    values = _merge({}, {"instances": standard_instances()}, origins, STANDARD)
    for values_of_file, origins_of_file in (loaded, *(_load(find_recipe(preset), ()) for preset in presets)):
        values = _merge(values, values_of_file, origins, origins_of_file)
    return RecipeSource(path_or_name, values, origins)


def load_recipe(path_or_name: str, overrides: Sequence[str] = (), data_uri: str = "") -> tuple[Recipe, dict[str, str]]:
    """Load, merge and validate a recipe.

    Args:
        path_or_name: a YAML file, or the name of a shipped recipe ("shapes", "presets/official").
        overrides: ``a.b=c`` items, the value read as YAML.
        data_uri: where the images are; replaces ``data.uri``.

    Returns:
        the recipe, and for each value given (``a.b``) the file or ``--set`` that it came from.

    Raises:
        ConfigError: no such recipe, malformed YAML, a cycle of bases, an unknown name or a value of the wrong type or range.
    """
    return read_recipe(path_or_name).recipe(overrides, data_uri)


def standard_instances() -> dict[str, dict[str, Any]]:
    """Return the options of the instances that every recipe begins with."""
    return copy.deepcopy(_read_standard())


@cache
def _read_standard() -> dict[str, dict[str, Any]]:
    instances: dict[str, dict[str, Any]] = read_mapping(shipped_folder() / STANDARD, "recipe fields")["instances"]
    return instances


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that come with the package."""
    root = shipped_folder()
    names = (p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(("sweeps/", "tables/")) and f"{name}.yaml" != STANDARD)


def shipped_on(name: str) -> list[str]:
    """Return the names of the recipes that come with the package and are laid over the one of that name."""
    files = {other: shipped_folder() / f"{other}.yaml" for other in shipped_recipes()}
    bases = {other: read_mapping(file, "recipe fields").get("base", []) for other, file in files.items()}
    return [other for other, of in bases.items() if f"{name}.yaml" in ([of] if isinstance(of, str) else of)]


def _load(path: Path, ancestors: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    if path in ancestors:
        chain = " -> ".join(p.name for p in (*ancestors, path))
        raise ConfigError(f"{path}: its bases form a cycle: {chain}")
    return _on_bases(read_mapping(path, "recipe fields"), str(path), path, (*ancestors, path))


def _on_bases(
    own: dict[str, Any], where: str, path: Path | None, ancestors: tuple[Path, ...]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Lay what a recipe says itself over what its bases say; return values and their origins."""
    own = _instances_apart(own, where)
    bases = own.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{where}: base: expected a recipe's name or a list of them, got {str(bases)[:200]}")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for base in bases:
        base_values, base_origins = _load(find_recipe(base, path), ancestors)
        values = _merge(values, base_values, origins, base_origins)
    return _merge(values, own, origins, posixpath.basename(where)), origins


def _instances_apart(own: dict[str, Any], where: str) -> dict[str, Any]:
    """Move the options of instances that ``stages`` lists (``- retrain.dino: {detector: dino}``) to ``instances``."""
    stages, instances = own.get("stages"), own.get("instances", {})
    if not isinstance(stages, list) or not isinstance(instances, dict):
        return dict(own)  # refused as a whole
    names, given = [], dict(instances)
    for entry in stages:
        if isinstance(entry, dict):
            ((name, options),) = entry.items() if len(entry) == 1 else ((None, None),)
            if not isinstance(name, str) or not isinstance(options, dict):
                raise ConfigError(
                    f"{where}: stages: expected a name or {{name: {{option: value}}}}, got {str(entry)[:200]}"
                )
            given[name] = _merge(given.get(name, {}), options, {}, "", ("instances", name))
            names.append(name)
        else:
            names.append(entry)
    return {**own, "stages": names, **({"instances": given} if given else {})}


def find_recipe(name: str, asked_by: Path | None = None) -> Path:
    """Return where a recipe's file lies that people or another file name: beside the latter, here, or among the shipped.

    Raises:
        ConfigError: there is none.
    """
    candidates = [Path(name), shipped_folder() / name, shipped_folder() / f"{name}.yaml"]
    if asked_by is not None:
        candidates.insert(0, asked_by.parent / name)
    for candidate in candidates:
        if os.path.isfile(candidate):  # of a name that no file can have, too
            return candidate.resolve()
    if os.path.isdir(name):
        raise ConfigError(
            f"{name}: expected a recipe file or a run folder (with recipe.yaml in it), got another folder"
        )
    close = difflib.get_close_matches(name, shipped_recipes(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"shipped recipes: {', '.join(shipped_recipes())}"
    raise ConfigError(
        f"no recipe {name!r:.200}{f', which {asked_by} names,' if asked_by else ''} as a file or by name; {hint}"
    )


def shipped_folder() -> Path:
    """Return the folder of the recipes that come with the package."""
    return Path(str(resources.files("recipes")))


def _merge(
    old: Any, new: Any, origins: dict[str, str], origin: str | Mapping[str, str], at: tuple[str, ...] = ()
) -> Any:
    """Return ``old`` overlaid with ``new``: mappings merge, everything else replaces.

    The options of a member of a family merge with those of the same member, and replace those of another (``Choice``).

    Args:
        old: what lies below.
        new: what lies above.
        origins: where values came from, by their path ``a.b``; those of ``new`` are noted.
        origin: of ``new``, or of each of its values by its path.
        at: the path of both in a recipe.
    """
    path = ".".join(at)
    choice = _choice_at(at)
    if choice is not None:
        old, new = choice.long_form(old), choice.long_form(new)
        if isinstance(new, dict) and "name" in new and choice.name_in(old) != new["name"]:
            old = None
            for name in [name for name in origins if name.startswith(f"{path}.")]:
                del origins[name]
    if not isinstance(new, dict):
        origins[path] = origin if isinstance(origin, str) else origin.get(path, "")
        return new
    merged = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        merged[name] = _merge(merged.get(name), value, origins, origin, (*at, str(name)))
    return merged


def _choice_at(at: Sequence[str]) -> Choice | None:
    """Return the family that the option at a path of a recipe chooses from, None of any other option."""
    if at[:1] == ("instances",) and len(at) > 2:
        at = at[2:] if at[2] in _PARTS else (_section(at[1]), *at[2:])
    hints = _hints_at(recipe_type(), {}, at[:-1])
    return _choice_of(hints.get(at[-1])) if at else None


def _choice_of(hint: Any) -> Choice | None:
    return next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Choice)), None)


def _hints_at(kind: Any, values: Any, at: Sequence[str]) -> Mapping[str, Any]:
    """Return the types of the options at a path of a section or a recipe that holds ``values``, if there are any."""
    for part in at:
        hint = _hints_of(kind).get(part)
        values = values.get(part) if isinstance(values, dict) else None
        kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        if (choice := _choice_of(hint)) is not None:
            kind = choice.member_in(values)
    return _hints_of(kind)


@cache
def _hints_of(kind: Any) -> Mapping[str, Any]:
    if not isinstance(kind, type) or not (is_dataclass(kind) or issubclass(kind, BaseModel)):
        return {}
    names = kind.model_fields if issubclass(kind, BaseModel) else {f.name for f in fields(kind)}
    return {name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name in names}


def options_at(kind: type, values: Any, at: Sequence[str]) -> list[str]:
    """Return the names of the options at a path of a section or a recipe that holds ``values``."""
    return list(_hints_at(kind, values, at))


def _parse_override(item: str, instances: Collection[str]) -> tuple[list[str], Any]:
    """Return the path of a value in the recipe, and the value; ``verb.label.option`` is one of an instance."""
    name, equals, text = item.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {item}: expected a.b=value, for instance --set prompts.points_per_side=16")
    value = parse(text, f"--set {item}: the value is not valid YAML")
    path = name.strip().split(".")
    return (["instances", ".".join(path[:2]), *path[2:]] if _is_of_instance(path, instances) else path), value


def _is_of_instance(path: Sequence[str], instances: Collection[str]) -> bool:
    """Whether ``verb.label.option`` is an option of an instance: of one that there is, or one that it begins.

    A label may be the name of an option of the section, too: ``retrain.test.lr`` is of the instance, where there is one, and
    ``retrain.test.nms_iou`` of the section, for no instance of ``retrain`` has such an option.
    """
    if len(path) < 3:
        return False
    options, instance = options_at(recipe_type(), {}, [_section(path[0])]), ".".join(path[:2])
    if path[1] in options:
        return instance in instances and path[2] in options
    return instance in instances or path[2] in options
