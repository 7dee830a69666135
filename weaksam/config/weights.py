"""Weights that an option names, and options that have no say in a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar

T = TypeVar("T")
NOT_IN_KEY = "not in key"
# The type of an option that changes how fast a result comes or how it is shown, and never what it is.
NotInKey = Annotated[T, NOT_IN_KEY]


@dataclass(frozen=True)
class Weights:
    """A weights file; true when one is named."""

    uri: str = ""  # path, URL or s3://…; "builtin" where the package has some
    sha256: str = ""  # expected checksum; "" = whatever the file has, noted in the manifest

    def __bool__(self) -> bool:
        return bool(self.uri)
