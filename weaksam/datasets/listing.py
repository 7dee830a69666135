"""The files of a data set's folder, without those of runs that were put into it (``--out`` below ``--data``)."""

from __future__ import annotations

import posixpath

from weaksam.io.files import list_files
from weaksam.io.stamps import Stamp

_RECIPE, _INDEX = "recipe.yaml", "index/"  # what every run folder holds


def list_data(uri: str) -> list[tuple[str, Stamp]]:
    """List every file under the folder ``uri`` that is not of a run, as ``list_files`` does; the same errors are raised."""
    found = list_files(uri)
    recipes = (posixpath.dirname(path) for path, _ in found if posixpath.basename(path) == _RECIPE)
    candidates = {folder for folder in recipes if folder}
    runs = tuple(f"{f}/" for f in candidates if any(path.startswith(f"{f}/{_INDEX}") for path, _ in found))
    return [(path, stamp) for path, stamp in found if not path.startswith(runs)]
