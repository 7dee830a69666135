"""``weaksam weights list`` and ``weaksam weights pull``: what weights there are, and fetching them ahead of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import terminal
from pipelines.cli.console import console, voice
from pipelines.engine.voice import Kind, TextTable, Tone, Toned
from weaksam.errors import ConfigError
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS, SCHEME
from weaksam.io.cache_folder import cached_path
from weaksam.io.downloads import Progress
from weaksam.io.weights import PUBLISHED, WeightsFile, fetch_weights, push_weights


def register(app: typer.Typer) -> None:
    """Add the group of verbs."""
    weights = typer.Typer(
        no_args_is_help=True,
        help=(
            "The weights that recipes name: what there is, and fetching it ahead.\n\n"
            "Examples:\n\n"
            "    weaksam weights list\n\n"
            "    weaksam weights pull vit_h\n\n"
            "    weaksam weights pull vit_h --mirror s3://mine/weights"
        ),
    )
    weights.command("list")(weights_list)
    weights.command("pull")(weights_pull)
    app.add_typer(weights, name="weights")


def weights_list() -> None:
    """List built-in and published weights, and which of them are on this machine.

    Example:

        weaksam weights list
    """
    table = TextTable()
    table.add_columns(Kind.NAME, "name", "here")
    table.add_columns(Kind.FIGURE, "MB")
    table.add_columns(Kind.NAME, "SHA-256")
    table.add_columns(Kind.TEXT, "what")
    for row in list_weights():
        size = "" if row.size_bytes is None else f"{row.size_bytes / 1e6:,.1f}"
        what = (f"{row.note}\n", Toned(row.uri, Tone.QUIET))
        table.add_row(row.name, "yes" if row.path else "no", size, row.sha256[:12], what)
    voice.table(table)


def weights_pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME|URI", help="A name of the list, or any path, https:// or s3:// address.")
    ],
    sha256: Annotated[str, typer.Option("--sha256", help="The checksum that the file must have.")] = "",
    mirror: Annotated[
        str, typer.Option("--mirror", metavar="URI", help="Folder or bucket to copy them into, for weights.mirror.")
    ] = "",
) -> None:
    """Fetch weights into the cache ($WEAKSAM_CACHE or ~/.cache/weaksam), where runs find them.

    With --mirror, copy published weights also into a folder or bucket. Runs with weights.mirror look there first.

    Examples:

        weaksam weights pull vit_b

        weaksam weights pull vit_h --mirror s3://mine/weights
    """
    terminal.go_on_unread()
    uri = published_uri(name) if mirror else ""
    with console.status(f"fetching {name}"):
        file = pull_weights(name, sha256=sha256)
    voice.say(f"{file.path}\nsha256 {file.sha256} ({'as expected' if file.known else 'nothing to compare with'})")
    if mirror:
        with console.status(f"copying {name}"):
            copy = push_weights(file.path, uri, mirror)
        voice.say(f"copied to {copy}; runs look there first with --set weights.mirror={mirror}")


@dataclass(frozen=True, kw_only=True)
class WeightsRow:
    """One line of the list. ``path`` is where the file is on this machine, or None when it has to be fetched first."""

    name: str
    note: str
    uri: str
    size_bytes: int | None
    sha256: str  # as published; possibly its first digits only, or empty
    path: Path | None


def list_weights() -> list[WeightsRow]:
    """Return the weights that are installed, then those that others publish."""
    rows = []
    for name, builtin in BUILTIN_WEIGHTS.items():
        there = builtin.path if builtin.path.is_file() else None
        rows.append(
            WeightsRow(
                name=f"{SCHEME}{name}",
                note=builtin.note,
                uri=f"{SCHEME}{name}",
                size_bytes=there.stat().st_size if there else None,
                sha256=builtin.sha256,
                path=there,
            )
        )
    for name, published in PUBLISHED.items():
        path = cached_path(published.uri)
        rows.append(
            WeightsRow(
                name=name,
                note=published.note,
                uri=published.uri,
                size_bytes=published.size_bytes,
                sha256=published.sha256,
                path=path if path.is_file() else None,
            )
        )
    return rows


def pull_weights(name_or_uri: str, *, sha256: str = "", progress: Progress | None = None) -> WeightsFile:
    """Fetch weights by their name in the list or by address into the cache, where runs find them.

    Raises:
        CheckpointError: the weights cannot be fetched or have another checksum than ``sha256`` or the published one.
    """
    return fetch_weights(_uri_of(name_or_uri), sha256=sha256, progress=progress)


def published_uri(name_or_uri: str) -> str:
    """Return where weights are published that a mirror may have.

    Raises:
        ConfigError: they are not, so that no run looks for them in a mirror.
    """
    uri = _uri_of(name_or_uri)
    if all(uri != published.uri for published in PUBLISHED.values()):
        raise ConfigError(
            f"--mirror: expected one of {', '.join(PUBLISHED)}, got {name_or_uri}; a mirror is for published weights, others "
            "are used where they lie"
        )
    return uri


def _uri_of(name_or_uri: str) -> str:
    return PUBLISHED[name_or_uri].uri if name_or_uri in PUBLISHED else name_or_uri
