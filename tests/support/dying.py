"""A command in a process of its own that SIGKILL ends at a chosen moment."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.support.patience import PATIENCE_S

_MAIN = "from pipelines.cli.app import main; main()"
# Lets a process be killed by the n-th call of a function, before or after the call.
_DYING = """
import os, signal, {module} as module
whole, calls = module.{name}, []
def dying(*given, **named):
    calls.append(1)
    if len(calls) == {calls} and not {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    done = whole(*given, **named)
    if len(calls) == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
module.{name} = dying
"""


def weaksam(*command: str, dying: dict[str, object] | None = None) -> str:
    """Run a command. With ``dying`` (``module``, ``name``, ``calls``, ``after`` of a function's call) it must be killed."""
    code = (_DYING.format(**dying) if dying else "") + _MAIN
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == (-signal.SIGKILL if dying else 0), done.stdout + done.stderr
    return done.stdout
