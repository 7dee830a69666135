"""What a finished stage instance leaves behind: a typed reader of its files, and of the facts that its manifest keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from pipelines.recipe.keys import to_plain
from pipelines.store.files import DamagedFileError
from pipelines.store.instances import Instance
from pipelines.store.proof import Proof
from pipelines.store.schemas import INPUT
from pipelines.store.tables import Rows


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a stage says of its work in the manifest. Facts that are None are not known, and left out."""

    text: str = ""  # a line for people
    images: Proof | None = None  # of a stage that goes over images

    def to_plain(self) -> dict[str, Any]:
        """Return the facts as the manifest keeps them."""
        return {name: value for name, value in to_plain(self).items() if value is not None}


F = TypeVar("F", bound=Facts)


class Product(Generic[F]):
    """Reads what an instance left behind; one that is not finished yet has the facts' defaults, and the rows so far.

    A subclass names the ``schema`` of its table, if it has one, and the ``facts_type``.
    """

    schema: ClassVar[pa.Schema | None] = None
    facts_type: ClassVar[type[Any]] = Facts
    shown_unfinished: ClassVar[bool] = False  # whether a page shows it as far as it has come

    def __init__(self, instance: Instance) -> None:
        self.instance = instance

    @property
    def name(self) -> str:
        """Of the instance: ``verb`` or ``verb.label``."""
        return self.instance.name

    @property
    def is_finished(self) -> bool:
        """Whether the instance has proved its work."""
        return self.instance.manifest() is not None

    @cached_property
    def facts(self) -> F:
        """What the manifest says; raises DamagedFileError where it does not read as such facts."""
        manifest = self.instance.manifest() or {}
        known = {f.name: manifest[f.name] for f in fields(self.facts_type) if f.name in manifest}
        try:
            facts: F = TypeAdapter(self.facts_type).validate_python(known)
        except ValidationError as error:
            finding = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in finding["loc"])
            raise DamagedFileError(
                self.instance.manifest_uri, f"{where}: {finding['msg']}", self.instance.mended_by
            ) from error
        return facts

    @property
    def seconds(self) -> float:
        """How long the run took that finished it; 0 before."""
        return float((self.instance.manifest() or {}).get("seconds", 0))

    @property
    def fingerprints(self) -> dict[str, str]:
        """What data and weights from outside the run it was made with: a digest of each, by name."""
        return dict((self.instance.plan() or {}).get("parts", {}).get("fingerprints", {}))

    @cached_property
    def table(self) -> Rows:
        """Its rows; of a table that several sets of images share, those that the instance is asked for."""
        assert self.schema is not None, f"{type(self).__name__} has no table"
        table = self.instance.table(self.schema)
        return self.instance.current(table) if INPUT.name in self.schema.names else table

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes that ``class_index`` of its rows counts through."""
        return self.table.class_names()
