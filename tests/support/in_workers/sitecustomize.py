"""What Python runs when a process of a test's cluster starts: tests cannot patch workers from outside.

``WEAKSAM_TEST_GPUS_ON_CPU=1`` lets whatever is moved to a GPU stay on the CPU: logical GPUs compute nothing.
``WEAKSAM_TEST_WORKER_HOOK`` names a file of Python that defines ``AFTER``: {name of a module: what is called with it once it
has been imported}.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], None]


class _Patcher(MetaPathFinder):
    """Finds modules as Python does, and patches those that it is told to once they are there."""

    def __init__(self, patches: dict[str, Patch]) -> None:
        self._patches = patches

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        patch = self._patches.get(fullname)
        if patch is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            _patch_after(spec.loader, patch)
        return spec


def _patch_after(loader: Loader, patch: Patch) -> None:
    run = loader.exec_module

    def run_and_patch(module: ModuleType) -> None:
        run(module)
        patch(module)

    loader.exec_module = run_and_patch  # type: ignore[method-assign]


def _stay_on_cpu(torch: Any) -> None:
    move = torch.nn.Module.to

    def stay(self: Any, *arguments: Any, **named: Any) -> Any:
        keep = [value for value in arguments if not str(value).startswith("cuda")]
        return move(self, *keep, **named) if keep or named else self

    torch.nn.Module.to = stay


_patches: dict[str, Patch] = {}
if os.environ.get("WEAKSAM_TEST_GPUS_ON_CPU") == "1":
    _patches["torch"] = _stay_on_cpu
if hook := os.environ.get("WEAKSAM_TEST_WORKER_HOOK"):
    _patches |= runpy.run_path(hook)["AFTER"]
if _patches:
    sys.meta_path.insert(0, _Patcher(_patches))
