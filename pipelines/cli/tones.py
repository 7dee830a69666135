"""How tones look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from pipelines.engine.voice import Tone, Words

_STYLES = {
    Tone.PLAIN: "",
    Tone.VERBATIM: "",
    Tone.NAME: "bold",
    Tone.HEADING: "bold cyan",
    Tone.QUIET: "dim",
    Tone.GOOD: "green",
    Tone.BUSY: "cyan",
    Tone.NOTICE: "yellow",
    Tone.WARNING: "yellow",
    Tone.ERROR: "red",
}


def to_text(words: Sequence[Words]) -> Text:
    """Return words with the styles of their tones; markup in them means nothing."""
    return Text.assemble(*(part if isinstance(part, str) else (part.text, _STYLES[part.tone]) for part in words))


def has_highlights(words: Sequence[Words]) -> bool:
    """Whether numbers, paths and the like stand out in a line: not in particulars, nor in what comes from elsewhere."""
    tones = {Tone.PLAIN if isinstance(part, str) else part.tone for part in words}
    return Tone.VERBATIM not in tones and tones != {Tone.QUIET}
