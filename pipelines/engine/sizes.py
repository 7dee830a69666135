"""How many actors there are, and how they share nodes: what a recipe leaves open is chosen for the cluster as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines.engine.reach import Reach
from pipelines.recipe.config import ResourcesConfig

_MOST = 256  # actors of a cluster that grows, where a recipe does not say
_LIKELY = 8  # actors that share the images of a cluster that is still small
# Of the CPU that an actor computes on, what it reserves on nodes of so many CPUs, where pools grow: enough that an actor too
# many finds no room; little enough that Ray Data, which divides what is left among its operators, fills a second such node.
_RESERVED = {1: 0.4, 2: 0.65}
_RESERVED_ON_LARGER_NODES = 0.9


@dataclass(frozen=True, kw_only=True)
class PoolSizes:
    """How the actors of a pass share a machine or cluster."""

    prompt_actors: int  # that run the clue network beside those that run SAM; 0 on GPUs, whose actors hold both
    segment_actors: int
    threads: int  # torch threads of each actor, on CPU
    gpu_share: float  # of a GPU, reserved by each actor; 0 on CPU
    cpu_share: float  # logical CPUs reserved by each actor
    rows_per_task: int
    here: bool = False  # in this process, without Ray
    most_actors: int = 0  # of each kind, as nodes come; 0 = no more than now

    @property
    def device(self) -> str:
        """Return where actors compute: "cuda" or "cpu"."""
        return "cuda" if self.gpu_share else "cpu"

    def describe(self) -> str:
        """Return one line for people."""
        if self.here:
            return f"in this process, {self.threads} thread(s), {self.rows_per_task} images at a time"
        where = f"{self.gpu_share:g} GPU each" if self.gpu_share else f"{self.threads} CPU thread(s) each"
        more = ", more as nodes come" if self.most_actors > self.segment_actors else ""
        actors = f"{self.segment_actors} actor(s)"
        if self.prompt_actors:
            actors = f"{self.prompt_actors} prompt + {self.segment_actors} segment actor(s)"
        return f"{actors}, {where}{more}, {self.rows_per_task} images per task"


def pool_sizes(resources: ResourcesConfig, images: int, with_clues: bool, reach: Reach) -> PoolSizes:
    """Choose the sizes that the recipe leaves open (0).

    A GPU carries one actor, which holds the clue network and SAM and overlaps loading and computing. On CPU there is one
    single-threaded SAM actor per CPU and half as many clue actors: SAM is the slower half, and the operating system shares the
    cores between them. Actors then reserve fractions of a logical CPU, so that reading and writing tasks always find room. With
    ``here`` there is one of each, in the driver.
    """
    if resources.here:
        resources = replace(resources, segment_actors=1, prompt_actors=1)
    share = (resources.gpus_per_actor or 1.0) if reach.gpus else 0.0
    room = reach.gpus * int(1 / share) if reach.gpus else max(1, reach.cpus)
    segment = resources.segment_actors or min(room, resources.most_actors or room)
    prompt = (resources.prompt_actors or max(1, segment // 2)) if with_clues and not reach.gpus else 0
    grows = reach.grows and not resources.segment_actors
    threads = resources.threads_per_actor or (1 if reach.gpus else max(1, reach.cpus // segment))
    rows = resources.rows_per_task or max(1, min(64, -(-images // (4 * max(segment, _LIKELY if grows else 1)))))
    return PoolSizes(
        prompt_actors=prompt,
        segment_actors=segment,
        threads=min(threads, max(1, reach.least_cpus)) if reach.grows else threads,
        gpu_share=share,
        cpu_share=0.0 if reach.gpus else _cpu_share(segment + prompt, segment, reach, grows),
        rows_per_task=rows,
        here=resources.here,
        most_actors=(resources.most_actors or _MOST) if grows else 0,
    )


def _cpu_share(actors: int, segment: int, reach: Reach, grows: bool) -> float:
    """Return how many logical CPUs each actor reserves: where pools do not grow, half of all is divided."""
    if not grows:
        return round(min(1.0, 0.5 * reach.cpus / actors), 2)
    return round(_RESERVED.get(reach.least_cpus, _RESERVED_ON_LARGER_NODES) * segment / actors, 2)
