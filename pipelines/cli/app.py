"""The front door: `weaksam`. Verbs are thin; torch and ray are imported where a verb needs them, so that `--help` is fast.

A module of verbs has a function ``register``, which adds them; other packages name theirs in the group ``weaksam.commands``.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from pipelines.cli import exchange, inspect, predict, run, table, terminal, weights
from pipelines.engine import interrupts, ray_session
from pipelines.store.explain import explain
from pipelines.store.lock import release_all
from weaksam.errors import ConfigError, StorageError
from weaksam.threads import sleep_soon

_told: list[str] = []  # what this process ends with


class _Verbs(TyperGroup):
    """All verbs; what an interrupt means is the same for each, and typer would only say "Aborted".

    Whatever a verb ends with after a signal, an error of Ray whose processes were ended, say, it was interrupted.
    """

    def invoke(self, ctx: Any) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except BaseException as error:
            by = interrupts.asked() or error
            if isinstance(by, KeyboardInterrupt):
                raise _Interrupted(by) from error
            raise


class _Interrupted(Exception):  # noqa: N818
    """A verb was interrupted, and has unwound."""

    def __init__(self, by: KeyboardInterrupt) -> None:
        super().__init__(by)
        self.by = by


app = typer.Typer(
    name="weaksam",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Weakly-supervised recognition on Ray: image-level labels in, object proposals and detectors out.\n\n"
    "Start with `weaksam demo`, or look at your own pictures: `weaksam propose grid --data photos/ --out runs/photos`.",
)
for verbs in (run, predict, table, exchange, inspect, weights):
    verbs.register(app)


def main() -> None:
    """Run the command line; a mistake of the user's ends in one line of text, exit code 1 (3: too many images dropped)."""
    sleep_soon()
    terminal.open_streams()
    interrupts.install(_end_now)
    with ray_session.left_at_the_end():
        try:
            _check_surroundings()
            for entry_point in _extensions():
                entry_point.load()(app)
            app(prog_name="weaksam")
        except _Interrupted as error:
            _end_now(error.by)
        except KeyboardInterrupt as error:  # while verbs are being imported
            _end_now(error)
        except Exception as error:
            told = explain(error)
            if told is None:
                raise
            _fail(str(told), told.exit_code)
        finally:
            interrupts.hold()


def _check_surroundings() -> None:
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"expected arguments in UTF-8, got {argument!a}; rename the file or folder") from None
    try:
        os.getcwd()
    except OSError as error:
        raise StorageError(f"the working directory is gone ({error.strerror}); change to another one") from error


def _extensions() -> list[EntryPoint]:
    """Return what registers more verbs: entry points of the group ``weaksam.commands``, each a function of the app."""
    return list(entry_points(group="weaksam.commands"))


def _end_now(by: KeyboardInterrupt) -> NoReturn:
    """End this process, which was interrupted, with all that it started; what it still holds is released last."""
    words = "" if _told else str(by) or interrupts.INTERRUPTED
    _told.append(words)
    terminal.close_streams(words and f"error: {words}")
    ray_session.halt_processes()  # so that nothing writes once the locks are released
    release_all()
    ray_session.kill_processes()
    os._exit(interrupts.exit_code(by))


def _fail(message: str, code: int) -> NoReturn:
    _told.append(message)
    terminal.say(f"error: {message}")
    sys.exit(code)
