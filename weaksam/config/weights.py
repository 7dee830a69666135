"""Weights that an option names, and options that have no say in a result."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, TypeVar

from weaksam.config.checks import require
from weaksam.io.weights import WeightsFile, fetch_weights, lacks

T = TypeVar("T")
NOT_IN_KEY = "not in key"
# The type of an option that changes how fast a result comes or how it is shown, and never what it is.
NotInKey = Annotated[T, NOT_IN_KEY]


@dataclass(frozen=True)
class Weights:
    """A weights file; true when one is named. A recipe may say its address alone: ``weights: path``."""

    uri: str = ""  # path, URL or s3://…; builtin:NAME of those that are installed, see weaksam weights list
    sha256: str = ""  # expected checksum, verified on every use; "" = that of the published file, where one is known

    def __post_init__(self) -> None:
        require(bool(self.uri) or not self.sha256, "uri", "the address of the file with this sha256", self.uri)

    def __bool__(self) -> bool:
        return bool(self.uri)

    def __str__(self) -> str:
        return self.uri

    def fetch(self) -> WeightsFile:
        """Return the file on this machine, verified; raise CheckpointError as ``fetch_weights`` does."""
        return fetch_weights(self.uri, sha256=self.sha256)

    def missed_in_mirror(self) -> str:
        """Say why a mirror of the run cannot give them out; "" if it can, or need not."""
        return ""

    def placed(self, places: WeightsConfig) -> PlacedWeights:
        """Return the same weights, to be looked for and kept in some places."""
        return PlacedWeights(self.uri, self.sha256, places=places)

    def as_seen(self) -> PlacedWeights:
        """Return the same weights, which from now on are the file that lies there now, whoever fetches them and where."""
        return self.placed(WeightsConfig()).as_seen()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Let pydantic, which reads recipes, take an address in the place of both fields, and nothing (``init:``) for none."""
        from pydantic_core import core_schema as schema

        text = schema.with_default_schema(schema.str_schema(), default="")
        names = [option.name for option in fields(cls)]
        options = [schema.dataclass_field(name, text) for name in names]
        arguments = schema.dataclass_args_schema(cls.__name__, options, extra_behavior="forbid")
        return schema.no_info_before_validator_function(
            lambda given: {"uri": given or ""} if given is None or isinstance(given, str) else given,
            schema.dataclass_schema(cls, arguments, names, post_init=True),
        )


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Where weights are looked for and kept, which never changes what they are."""

    # Folder or bucket in which published weights are looked for first; ``weaksam weights pull NAME --mirror`` fills it.
    mirror: str = ""
    cache: str = ""  # folder on each node for what is fetched; empty = that of $WEAKSAM_CACHE, else ~/.cache/weaksam


@dataclass(frozen=True)
class PlacedWeights(Weights):
    """Weights as a run uses them: from its places, and the same file in every process, or an error that says why not."""

    places: WeightsConfig = field(default_factory=WeightsConfig)
    seen: str = ""  # SHA-256 of the file when the run began, which its keys are made of; "" before it was read

    def fetch(self) -> WeightsFile:
        """See ``Weights.fetch``; CheckpointError also for another file than was seen."""
        return fetch_weights(
            self.uri, sha256=self.sha256, seen=self.seen, mirror=self.places.mirror, cache_dir=self.places.cache
        )

    def missed_in_mirror(self) -> str:
        """See ``Weights.missed_in_mirror``."""
        missed = lacks(self.places.mirror, self.uri)
        return f"{missed}; {self.uri} is fetched instead, on each node that has no copy" if missed else ""

    def placed(self, places: WeightsConfig) -> PlacedWeights:
        """See ``Weights.placed``."""
        return replace(self, places=places)

    def as_seen(self) -> PlacedWeights:
        """See ``Weights.as_seen``."""
        return replace(self, seen=self.fetch().sha256)


NO_WEIGHTS = Weights()
