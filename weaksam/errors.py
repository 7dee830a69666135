"""Every error that weaksam raises on purpose.

    WeaksamError
    ├── ConfigError        a recipe, an option or a combination of options is wrong
    │   └── OptionError    a value of one option, which it names; a recipe puts before it where the option stands
    ├── DataError          a data set, an annotation file or a table is malformed
    ├── CheckpointError    weights are missing, of another model, or not what their checksum says
    ├── RunError           a run folder is in use, incomplete or contradicts itself
    ├── StorageError       a disk is full or read-only, a file is where a folder should be, a bucket does not answer
    └── ImageError         one image cannot be used; stages turn it into a row of ``_dropped``

The first three are also ``ValueError``: the caller passed something wrong. A message says what was expected, what came,
where (file, image id, recipe path) and what to do about it.
"""

import re

_LONGEST_WORD = 1000  # characters; paths are shorter
_SHOWN_OF_IT = 200


class WeaksamError(Exception):
    """Root of all errors raised on purpose; the command line prints it without a traceback and ends with ``exit_code``."""

    exit_code = 1

    def __str__(self) -> str:
        """Return the message; of a word that is as long as some damaged file, its beginning."""
        return re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:_SHOWN_OF_IT]} …", super().__str__())


class ConfigError(WeaksamError, ValueError):
    """A recipe, an option or a combination of options is wrong."""


class OptionError(ConfigError):
    """An option has a value that it does not take; ``option`` is its name where it was declared."""

    def __init__(self, option: str, said: str) -> None:
        super().__init__(f"{option}: {said}")
        self.option = option
        self.said = said

    def __reduce__(self) -> tuple[type["OptionError"], tuple[str, str]]:
        return OptionError, (self.option, self.said)


class DataError(WeaksamError, ValueError):
    """A data set, an annotation file or a table is malformed."""


class CheckpointError(WeaksamError, ValueError):
    """Weights are missing, belong to another model, or do not match their checksum."""


class RunError(WeaksamError, RuntimeError):
    """A run folder is in use by another process, incomplete, or its proof does not hold."""


class StorageError(WeaksamError):
    """A file or folder cannot be read or written for a reason that lies outside: full, read-only, in the way, not reachable."""


class ImageError(WeaksamError):
    """One image cannot be used.

    ``reason`` is a short stable phrase that reports count by (``"truncated"``); ``str(error)`` adds the particulars.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, self.detail)
