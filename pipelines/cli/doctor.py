"""``weaksam doctor``: whether this machine can do the work, and what to change where it cannot.

Every check looks at one thing and says "ok", "warn" (works, but worse than it could) or "fail". Nothing is started and
nothing secret is shown. torch is imported only where there is a GPU for it to see.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from pipelines.cli import storage_checks
from pipelines.cli.check import Check, State
from pipelines.engine import ray_address
from pipelines.engine.ray_session import usable_cpus
from pipelines.store.explain import explain
from weaksam.errors import CheckpointError, WeaksamError
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS, Builtin
from weaksam.io.weights import fetch_weights

_LOCK_FILE = Path(__file__).resolve().parents[2] / "requirements.lock"  # in a checkout; an installed package has none
_CGROUP = Path("/sys/fs/cgroup")
_MAIN_PACKAGES = (
    "torch",
    "torchvision",
    "ray",
    "pyarrow",
    "numpy",
    "segment-anything",
    "safetensors",
    "fsspec",
    "s3fs",
)
_MEMORY_BYTES = 4 * 2**30  # one SAM actor with ViT-B, one clue actor and Ray itself
_SHM_BYTES = 2**30  # Ray's object store with room to spare; Ray falls back to the disk below
_DISK_BYTES = 5 * 2**30
_DISK_SHARE_FULL = 0.95  # Ray refuses to spill above it (RAY_local_fs_capacity_threshold)
_CPU_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX bf16", "bf16": "bf16"}


def run_doctor(uri: str = "") -> list[Check]:
    """Examine this machine, and access to ``uri`` (a data or run folder) if given. Exit code 1 belongs to any "fail"."""
    checks: list[Callable[[], Check]] = [
        python_version,
        package_versions,
        opencv_packages,
        cpus,
        cpu_instructions,
        gpus,
        memory,
        shared_memory,
        temporary_disk,
        ray_cluster,
        storage_checks.s3_settings,
        builtin_weights,
    ]
    done = [_looked_at(check) for check in checks]
    return [*done, *storage_checks.of_place(uri)] if uri else done


def _looked_at(check: Callable[[], Check]) -> Check:
    """Return what a check finds; one that cannot look must not keep the others from it."""
    try:
        return check()
    except Exception as error:
        name = check.__name__.replace("_", " ")
        return Check(name=name, state="warn", detail=f"cannot be looked at: {explain(error) or repr(error)}")


def python_version() -> Check:
    """Python 3.11 to 3.13, for which the lock file is resolved."""
    found = platform.python_version()
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        return Check(name="Python", state="ok", detail=f"{found} on {platform.platform(terse=True)}")
    return Check(name="Python", state="fail", detail=found, remedy="use Python 3.11, 3.12 or 3.13")


def package_versions(lock_file: Path = _LOCK_FILE) -> Check:
    """The main packages are there, in the versions of the lock file where there is one."""
    found: dict[str, str] = {}
    for name in _MAIN_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            return Check(name="packages", state="fail", detail=f"{name} is not installed", remedy="run `make setup`")
    locked = locked_versions(lock_file.read_text(encoding="utf-8")) if lock_file.is_file() else {}
    # the local label says which build it is ("2.15.0+cu130"), not which version
    differing = {n: v for n, v in found.items() if n in locked and v.partition("+")[0] not in locked[n]}
    if differing:
        text = ", ".join(f"{name} {v} instead of {' or '.join(sorted(locked[name]))}" for name, v in differing.items())
        return Check(name="packages", state="warn", detail=text, remedy="run `make setup` for the tested versions")
    text = ", ".join(f"{name} {v}" for name, v in found.items())
    return Check(name="packages", state="ok", detail=f"{text}{' as locked' if locked else ''}")


def locked_versions(text: str) -> dict[str, set[str]]:
    """Return the versions that a requirements file pins, by package: one, or one for each Python."""
    pinned: dict[str, set[str]] = {}
    for name, found in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE):
        pinned.setdefault(name, set()).add(found)
    return pinned


def opencv_packages() -> Check:
    """Exactly one OpenCV package: they overwrite each other's files; only contrib ones have Selective Search."""
    found = sorted({d.name.lower() for d in distributions() if d.name and d.name.lower().startswith("opencv-")})
    remedy = "uninstall every opencv-* package, then install opencv-contrib-python-headless alone"
    if len(found) > 1:
        return Check(name="OpenCV", state="fail", detail=f"{' and '.join(found)} overwrite each other", remedy=remedy)
    if not found or "contrib" not in found[0]:
        detail = f"{found[0] if found else 'no OpenCV'}: Selective Search is not available"
        return Check(name="OpenCV", state="warn", detail=detail, remedy=remedy)
    return Check(name="OpenCV", state="ok", detail=f"{found[0]} {version(found[0])}")


def cpus() -> Check:
    """How many CPUs this process may use, by affinity and by its cgroup's quota."""
    usable, present = usable_cpus(), os.cpu_count() or 1
    detail = f"{usable} usable" + (f" of {present} present (affinity or cgroup quota)" if usable < present else "")
    if usable < 2:
        return Check(name="CPUs", state="warn", detail=detail, remedy="give the process two or more CPUs")
    return Check(name="CPUs", state="ok", detail=detail)


def cpu_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> Check:
    """Vector instructions that torch uses on CPU."""
    try:
        words = set(re.findall(r"\w+", cpuinfo.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return Check(name="CPU instructions", state="ok", detail=f"not known on {platform.system()}")
    names = list(dict.fromkeys(name for flag, name in _CPU_FLAGS.items() if flag in words))
    detail = ", ".join(names) if names else f"{platform.machine()} without AVX2 or bf16"
    return Check(name="CPU instructions", state="ok", detail=detail)


def gpus() -> Check:
    """GPUs with their memory, if torch can use those that are there."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and shutil.which("nvidia-smi") is None:
        return Check(name="GPUs", state="ok", detail="none: everything runs on CPU")
    import torch

    if not torch.cuda.is_available():
        remedy = "install a CUDA build of torch, check the driver with `nvidia-smi` and CUDA_VISIBLE_DEVICES"
        return Check(
            name="GPUs", state="warn", detail=f"present, but torch {torch.__version__} sees none", remedy=remedy
        )
    found = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return Check(name="GPUs", state="ok", detail=", ".join(f"{g.name} {_gib(g.total_memory)}" for g in found))


def memory() -> Check:
    """Memory that is free for this process, by the machine and by its cgroup."""
    import psutil

    available, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    limit = _number(_CGROUP / "memory.max")
    if limit is not None and limit < total:
        total, available = limit, min(available, limit - _cgroup_used_bytes())
    detail = f"{_gib(available)} free of {_gib(total)}"
    if available < _MEMORY_BYTES:
        remedy = f"free {_gib(_MEMORY_BYTES)} or more, or run fewer actors (resources.segment_actors)"
        return Check(name="memory", state="warn", detail=detail, remedy=remedy)
    return Check(name="memory", state="ok", detail=detail)


def shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Room for Ray's object store."""
    if not folder.is_dir():
        return Check(
            name="shared memory", state="ok", detail=f"no {folder} on {platform.system()}: Ray uses its temp folder"
        )
    free = shutil.disk_usage(folder).free
    if free < _SHM_BYTES:
        remedy = "enlarge it (docker run --shm-size=2g); Ray falls back to the disk, which is slower"
        return Check(name="shared memory", state="warn", detail=f"{folder}: {_gib(free)} free", remedy=remedy)
    return Check(name="shared memory", state="ok", detail=f"{folder}: {_gib(free)} free")


def temporary_disk() -> Check:
    """Room in Ray's temp folder, where it logs and spills."""
    folder = ray_address.temporary_folder()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        remedy = "set RAY_TMPDIR to a folder that this user can write to"
        return Check(name="temp folder", state="fail", detail=f"{folder} cannot be written to", remedy=remedy)
    usage = shutil.disk_usage(folder)
    detail = f"{folder}: {_gib(usage.free)} free of {_gib(usage.total)}"
    remedy = "free some room, or set RAY_TMPDIR to a folder on another disk"
    if 1 - usage.free / usage.total > _DISK_SHARE_FULL:
        detail += f"; Ray stops spilling when it is over {_DISK_SHARE_FULL:.0%} full"
        return Check(name="temp folder", state="fail", detail=detail, remedy=remedy)
    state: State = "warn" if usage.free < _DISK_BYTES else "ok"
    return Check(name="temp folder", state=state, detail=detail, remedy=remedy if state == "warn" else "")


def ray_cluster() -> Check:
    """The cluster of RAY_ADDRESS answers, if one is named; it is not joined."""
    address = os.environ.get("RAY_ADDRESS", "")
    if not address:
        return Check(name="Ray", state="ok", detail="RAY_ADDRESS is not set: Ray starts on this machine")
    remedy = "start the cluster or its tunnel, or unset RAY_ADDRESS to run on this machine"
    try:
        chosen = ray_address.chosen_address("")
        if chosen:
            ray_address.check_address(chosen)
    except WeaksamError as error:
        return Check(name="Ray", state="fail", detail=str(error), remedy=remedy)
    if chosen == ray_address.AUTO and not ray_address.head_runs():
        return Check(
            name="Ray", state="fail", detail="RAY_ADDRESS=auto, and no cluster runs on this machine", remedy=remedy
        )
    return Check(name="Ray", state="ok", detail=f"RAY_ADDRESS={address}" + (" answers" if chosen else ""))


def builtin_weights(weights: Mapping[str, Builtin] = BUILTIN_WEIGHTS) -> Check:
    """The weights that are installed are there, and what they should be."""
    found = []
    for name, builtin in weights.items():
        try:
            file = fetch_weights(str(builtin.path), sha256=builtin.sha256)
        except CheckpointError as error:
            remedy = f"install the package {builtin.package.partition('.')[0]} again"
            return Check(name="built-in weights", state="fail", detail=f"{name}: {error}", remedy=remedy)
        found.append(f"{name} (sha256 {file.sha256[:12]}…)")
    return Check(name="built-in weights", state="ok", detail=", ".join(found))


def _cgroup_used_bytes() -> int:
    """Return what the cgroup uses without the cached files that the kernel would give up."""
    try:
        cached = re.search(r"^inactive_file (\d+)", (_CGROUP / "memory.stat").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        cached = None
    return (_number(_CGROUP / "memory.current") or 0) - (int(cached[1]) if cached else 0)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not Linux, no cgroup v2, or "max"
        return None


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
