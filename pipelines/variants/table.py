"""Tables of papers: YAML files that name settings of a recipe, what to measure of each, and what was published.

``recipes/tables/`` holds ours. Another package adds a folder of tables by one line, an entry point of the group
``weaksam.tables`` for each: the table's name, and the package that holds ``NAME.yaml``; a file of one's own needs no line.
Everything that a table names is checked before anything runs.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipelines.recipe.explain import explain
from pipelines.recipe.model import find_recipe, shipped_folder
from pipelines.recipe.paths import leaves
from pipelines.recipe.yaml_text import read_mapping
from pipelines.variants.objectives import OBJECTIVES, check_objective
from weaksam.errors import ConfigError

GROUP = "weaksam.tables"  # of entry points
TRAINING, HELD_OUT = "training", "held-out"  # the split whose labels are granted, and all others
ELSE = "else"  # in ``presets``: for recipes of other names
_STRICT = ConfigDict(extra="forbid", frozen=True)

Settings = dict[str, Any]  # of a recipe: ``a.b`` -> value


class Column(BaseModel):
    """What a column shows."""

    model_config = _STRICT

    objective: str  # a name in ``OBJECTIVES``
    split: str = ""  # "training", "held-out" or a split's name; "" = as the table


class Row(BaseModel):
    """A setting, and what was published of it."""

    model_config = _STRICT

    presets: tuple[str, ...] = ()  # of the table, laid over the recipe
    settings: Settings = Field(default_factory=dict, alias="set")  # laid over these
    detections: str = ""  # the evaluation that columns of detections are read from; "" = as the table
    label_maps: str = ""  # the same of label maps
    needs: Settings = {}  # the recipe must have these values, or hold them in its lists: the row is left out otherwise
    published: dict[str, dict[str, float]] = {}  # data set -> heading -> number as printed


class Differences(BaseModel):
    """Which rows are compared seed by seed."""

    model_config = _STRICT

    column: str
    pairs: tuple[tuple[str, str], ...]  # rows; the one that is expected to be worse first
    half_width: float = Field(default=0.0, ge=0)  # in the column's unit: seeds after the third go to wider pairs alone


class PaperTable(BaseModel):
    """A table's file, validated."""

    model_config = _STRICT

    file: str  # for messages
    name: str  # of the file, without its suffix
    title: str
    source: str  # where the numbers were published
    recipe: str  # that rows change, where no other is asked for
    # Preset -> name of a recipe, as far as a hyphen, or "else" -> a file to lay over it, or settings.
    presets: dict[str, dict[str, str | Settings]] = {}
    starts_from: Settings = {}  # values that the recipe must have before rows change it
    columns: dict[str, Column]
    split: str = HELD_OUT
    detections: str = "evaluate.final"
    label_maps: str = "evaluate.maps"
    proposals: str = "evaluate.proposals"  # the evaluation that columns of proposals are read from
    seeds: tuple[int, ...] = ()  # where no others are asked for; empty = the recipe's own
    seeded: tuple[str, ...]  # fields of the recipe that take the seed
    rows: dict[str, Row]
    differences: Differences | None = None
    notes: tuple[str, ...] = ()

    @field_validator("columns", mode="before")
    @classmethod
    def _named_alone(cls, columns: Any) -> Any:
        """Let an objective's name alone stand for its column."""
        if not isinstance(columns, dict):
            return columns
        return {heading: {"objective": c} if isinstance(c, str) else c for heading, c in columns.items()}

    @property
    def objectives(self) -> tuple[str, ...]:
        """Every objective that a column shows, once."""
        return tuple(dict.fromkeys(column.objective for column in self.columns.values()))

    def split_of(self, heading: str) -> str:
        """Return the images that a column is measured on: TRAINING, HELD_OUT or a split's name."""
        return self.columns[heading].split or self.split

    def fields_set(self) -> set[str]:
        """Return the fields of a recipe that the table sets itself."""
        settings = [setting for row in self.rows.values() for setting in row.settings.items()]
        return {*self.seeded, *(path for name, value in settings for path in leaves(name, value))}


def load_table(path_or_name: str) -> PaperTable:
    """Load a table and check it.

    Args:
        path_or_name: a YAML file, a table's name (``weaksam table`` lists them), or N for ``table-N``.

    Raises:
        ConfigError: no such table, malformed YAML, an unknown field, objective, preset, file of a preset, row or column.
    """
    path = _find(path_or_name)
    given = {**read_mapping(path, "a table's fields"), "file": str(path), "name": path.stem}
    try:
        table = PaperTable.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, f"table {path}", _fields_at)) from error
    _check(table, str(path))
    return table.model_copy(update={"presets": {name: _found(path, name, of) for name, of in table.presets.items()}})


def known_tables() -> dict[str, Path]:
    """Return the tables that there are by name: ours, then those of other packages.

    Raises:
        ConfigError: another package's table is not where its entry point says.
    """
    found = {path.stem: path for path in sorted((shipped_folder() / "tables").glob("*.yaml"), key=_in_order)}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            folder = Path(str(resources.files(point.value)))
        except ImportError as error:
            raise ConfigError(
                f"{GROUP}: {point.name!r}: no package {point.value} ({error}); mend its entry point"
            ) from error
        path = folder / f"{point.name}.yaml"
        if found.setdefault(point.name, path) != path or not path.is_file():
            wrong = f"is registered twice, as {found[point.name]} and as" if path.is_file() else "is not at"
            raise ConfigError(f"{GROUP}: {point.name!r} {wrong} {path}; mend the entry point of its package")
    return found


def _in_order(path: Path) -> tuple[bool, int, str]:
    number = path.stem.removeprefix("table-").partition("-")[0]
    return (not number.isdigit(), int(number) if number.isdigit() else 0, path.stem)


def _find(name: str) -> Path:
    known = known_tables()
    if os.path.isfile(name):
        return Path(name).resolve()
    for candidate in (name.removesuffix(".yaml"), f"table-{name}"):
        if candidate in known:
            return known[candidate]
    close = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"no table {name!r:.200} as a file or by name; {f'did you mean {close[0]}? ' if close else ''}"
        f"There are {', '.join(known)}"
    )


def _found(table: Path, preset: str, of: Mapping[str, str | Settings]) -> dict[str, str | Settings]:
    """Find the files that a preset names, beside the table's own first."""
    try:
        return {key: str(find_recipe(value, table)) if isinstance(value, str) else value for key, value in of.items()}
    except ConfigError as error:
        raise ConfigError(f"{table}: presets.{preset}: {error}") from error


def _check(table: PaperTable, where: str) -> None:
    for field, given in (("columns", table.columns), ("rows", table.rows), ("seeded", table.seeded)):
        if not given:
            raise ConfigError(f"{where}: {field}: expected one or more, got none")
    for heading, column in table.columns.items():
        check_objective(column.objective, f"{where}: columns.{heading}")
        if OBJECTIVES[column.objective].among_trials:
            raise ConfigError(
                f"{where}: columns.{heading}: expected a figure that a setting has alone, got {column.objective}"
            )
    for name, row in table.rows.items():
        _check_names(row.presets, table.presets, f"{where}: rows.{name}.presets")
        for data, numbers in row.published.items():
            _check_names(list(numbers), table.columns, f"{where}: rows.{name}.published.{data}")
    if table.differences is not None:
        _check_names([table.differences.column], table.columns, f"{where}: differences.column")
        _check_names([n for pair in table.differences.pairs for n in pair], table.rows, f"{where}: differences.pairs")


def _check_names(given: Sequence[str], known: Mapping[str, Any], where: str) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{where}: expected one of {', '.join(known)}, got {name}{hint}")


def _fields_at(names: Sequence[str]) -> list[str]:
    parts: dict[str, type[BaseModel]] = {"rows": Row, "columns": Column, "differences": Differences}
    model = parts.get(names[0], PaperTable) if names else PaperTable
    return [field.alias or name for name, field in model.model_fields.items()]
