"""A command in a process of its own that SIGKILL ends at a chosen moment.

Processes are forked from one that has imported what commands import: that takes several seconds of each on a busy machine.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile

from tests.support.patience import PATIENCE_S

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["pipelines.cli.app", "pandas", "torch", "torchvision", "cv2", "s3fs"])
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
    """Run a command, and return what it prints.

    With ``dying`` (``module``, ``name``, ``calls``, ``after`` of a function's call) it must be killed.
    """
    code = (_DYING.format(**dying) if dying else "") + _MAIN
    with tempfile.NamedTemporaryFile("r") as printed:
        process = _FORKS.Process(target=_run, args=(code, command, dict(os.environ), printed.name))
        process.start()
        process.join(PATIENCE_S)
        said = printed.read()
        if process.is_alive():
            process.kill()
            process.join()
            raise AssertionError(f"still running after {PATIENCE_S:.0f} s: {said}")
    assert process.exitcode == (-signal.SIGKILL if dying else 0), said
    return said


def _run(code: str, command: tuple[str, ...], environment: dict[str, str], printed: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(printed, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["weaksam", *command]
    try:
        exec(code, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # which forked processes end without
