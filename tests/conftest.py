"""What all tests share: quiet single-threaded libraries, one Ray cluster, and the rule of tests that need a GPU."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

# Read when ray and torch are imported, and inherited by the processes that tests start.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# One thread, because the tests share the cores; WEAKSAM_TEST_THREADS asks for more, as ``tests/portable.py`` does.
os.environ["OMP_NUM_THREADS"] = os.environ.get("WEAKSAM_TEST_THREADS", "1")
os.environ.pop("RAY_ADDRESS", None)  # tests never run on somebody's cluster

import pytest

from weaksam.threads import sleep_soon


def pytest_configure(config: pytest.Config) -> None:
    sleep_soon()
    cache = tempfile.mkdtemp(prefix="weaksam-cache-")  # that of the person who runs the tests stays as it is
    os.environ["WEAKSAM_CACHE"] = cache
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    # Ray warns of its own deprecated options when it makes its default context; nothing here sets them.
    config.addinivalue_line("filterwarnings", r"ignore::DeprecationWarning:ray\.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_missing: bool | None = None
    for item in items:
        if item.get_closest_marker("gpu"):
            if gpu_missing is None:
                gpu_missing = not _has_cuda()
            if gpu_missing:
                item.add_marker(pytest.mark.skip(reason="NO CUDA DEVICE HERE: the gpu tests did not run"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Let no test see what others drew or how many threads they took; those that need no PyTorch do not import it."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what commands that run inside the test process do to the loggers."""
    loggers = [logging.getLogger(name) for name in (None, "weaksam", "pipelines")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """Undo what commands that run inside the test process do to signals."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """The one local Ray of this process, with four logical CPUs whatever the machine has."""
    import ray

    from pipelines.engine import ray_session
    from pipelines.recipe.config import ResourcesConfig

    ray_session.connect(ResourcesConfig(cpus=4))
    yield
    ray.shutdown()
