"""What is wrong with a file that people wrote, from pydantic's findings."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError

from weaksam.config.checks import shortened
from weaksam.errors import OptionError


def explain(
    error: ValidationError,
    what: str,
    names_at: Callable[[Sequence[str]], Sequence[str]],
    origins: Mapping[str, str] | None = None,
) -> str:
    """Turn pydantic's findings into one line each: field, origin, what was expected, what came.

    Args:
        error: of a file that people write.
        what: the file, for the first line.
        names_at: the option names that there are at a path.
        origins: where values (``a.b``) came from, if not all from one file.
    """
    lines = []
    for finding in error.errors(include_url=False):
        path = [str(part) for part in finding["loc"]]
        refused = finding.get("ctx", {}).get("error")
        if isinstance(refused, OptionError):
            path.append(refused.option)
        dotted = ".".join(path)
        within = (origin for name, origin in (origins or {}).items() if name.startswith(f"{dotted}."))
        origin = (origins or {}).get(dotted) or next(within, None)
        message = refused.said if isinstance(refused, OptionError) else finding["msg"].removeprefix("Value error, ")
        if finding["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            close = difflib.get_close_matches(path[-1], names_at(path[:-1]), n=1)
            message = f"no such option{f'; did you mean {close[0]}?' if close else ''}"
        elif finding["type"] not in ("missing", "value_error"):
            message = f"{message}, got {shortened(repr(finding['input']))}"
        lines.append(f"  {dotted or what.partition(' ')[0]}{f' (from {origin})' if origin else ''}: {message}")
    return f"{what}:\n" + "\n".join(lines)
