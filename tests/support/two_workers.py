"""Two workers of the training loop as plain processes: what Ray Train adds (groups, restarts) is tested elsewhere."""

import multiprocessing
from pathlib import Path

import torch.distributed
import torch.multiprocessing

from pipelines.training.task import TrainingResources, TrainingTask
from pipelines.training.worker import Worker

PRELOADED = ["pipelines.training.worker", "weaksam.detectors.loading", "weaksam.detectors.mil.mist"]


def train_two(tasks: dict[str, TrainingTask], folder: str, **resources) -> None:
    """Train tasks by name into ``FOLDER/NAME``, one after the other."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    # Importing torch and the detectors takes seconds: a server does it once, and the workers of all tests are its forks.
    multiprocessing.set_forkserver_preload(PRELOADED)
    arguments = (tasks, folder, TrainingResources(**resources))
    torch.multiprocessing.start_processes(_work, arguments, nprocs=2, start_method="forkserver")


def _work(rank, tasks, folder, resources):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/_meeting", rank=rank, world_size=2)
    for name, task in tasks.items():
        Worker(task, resources, f"{folder}/{name}", rank=rank, world=2).run()
    torch.distributed.destroy_process_group()
