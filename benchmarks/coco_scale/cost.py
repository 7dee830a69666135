"""Hours and dollars: arithmetic on what a GPU takes for an image, what the work beside it takes, and what machines cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from pipelines.products.proposals import ProposalTable
from pipelines.store.instances import finished_instance
from weaksam.errors import RunError

COCO_TRAIN2017 = 118_287  # images


@dataclass(frozen=True, kw_only=True)
class Price:
    """What somebody asked for a machine on some day: an input, which the reader looks up."""

    machine: str
    gpus: int
    dollars_per_hour: float
    on: date

    def dollars(self, gpus: int, hours: float) -> float:
        """Return the price of so many GPUs, in whole machines, for so long."""
        return -(-gpus // self.gpus) * self.dollars_per_hour * hours

    def __str__(self) -> str:
        return f"{self.machine}, {self.dollars_per_hour:g} $/h on {self.on}"


def hours(images: int, seconds_per_image: float, gpus: int, beside_s: float) -> float:
    """Return how long GPUs take for images.

    Args:
        images: how many.
        seconds_per_image: of one GPU.
        gpus: at work at a time.
        beside_s: seconds that the run takes beside the GPUs' work.
    """
    return (images * seconds_per_image / gpus + beside_s) / 3600


def measured_seconds_per_image(run_uri: str, gpus: int) -> float:
    """Return the seconds that a GPU took for an image of ``propose``, with whatever lay beside.

    Args:
        run_uri: a run folder.
        gpus: that worked on it.

    Raises:
        RunError: its propose is not finished, or did nothing the last time.
    """
    throughput = ProposalTable(finished_instance(run_uri, "propose")).facts.throughput
    if throughput is None or not throughput.images_per_s:
        raise RunError(
            f"{run_uri}: expected a run whose propose did images the last time it ran, got one that found none to do"
        )
    return gpus / throughput.images_per_s
