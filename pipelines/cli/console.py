"""What verbs print on and speak with, and where the log goes."""

from __future__ import annotations

import logging
import warnings

from rich.console import Console
from rich.logging import RichHandler

from pipelines.cli import terminal
from pipelines.cli.voice import ConsoleVoice
from pipelines.engine.logs import Subjects

terminal.correct_width()
console = Console(soft_wrap=True)
voice = ConsoleVoice(console)


def set_up_logging(verbose: int) -> None:
    """Say what goes on to standard error: warnings; -v what each stage does; -vv everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = RichHandler(console=Console(stderr=True), show_path=False, markup=False)
    handler.addFilter(Subjects())
    logging.basicConfig(level=logging.WARNING, format="%(message)s%(about)s", handlers=[handler], force=True)
    for name in ("weaksam", "pipelines"):
        logging.getLogger(name).setLevel(level)
    if not verbose:
        warnings.filterwarnings("ignore", category=FutureWarning)
