"""Instances of runs that are written by hand: asked for the images of the index "k", their rows computed from nothing of it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.store.instances import Instance, finished_instance
from pipelines.store.planned import Planned
from pipelines.store.schemas import IMAGES

ALL = Planned(digest="all", index="k", columns=())
FROM_NOTHING = ""  # the input of such rows


def write_images(run_uri: str, images: Mapping[str, Sequence[str]], key: str = "k") -> None:
    """Write an images table of split -> image ids, as an index under a key has it; there are no pictures."""
    nothing = {"content": "", "labels": None, "labels_difficult": None}
    rows = [
        {"image_id": i, "uri": f"/nowhere/{i}.jpg", "split": split, **nothing}
        for split, ids in images.items()
        for i in ids
    ]
    Instance(run_uri, "index", key).table(IMAGES).write_rows(rows, "part-0")


def instance_of(run_uri: str, name: str, key: str = "k", *, index: str = "k", splits: tuple[str, ...] = ()) -> Instance:
    """Return an instance under a key that is asked for the images of some splits of an index; empty = of all."""
    planned = None if name == "index" else replace(ALL, index=index, splits=splits)
    return Instance(run_uri, name, key, planned)


def of_index(run_uri: str, name: str) -> Instance:
    """Return an instance that is asked for all images of the run's index, whatever key that has."""
    return instance_of(run_uri, name, index=finished_instance(run_uri, "index").key)
