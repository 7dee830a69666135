"""``weaksam export``: one split of what an instance of a run found, in a format of another project."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pipelines import registry
from pipelines.exchange import EXPORTS
from pipelines.exchange.content import (
    Content,
    SplitImages,
    detections_of,
    images_of,
    label_maps_of,
    proposals_of,
    pseudo_labels_of,
)
from pipelines.exchange.pictures import PictureMode
from pipelines.products.detections import DetectionTable
from pipelines.products.label_maps import LabelMapTable
from pipelines.products.proposals import ProposalTable
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.store.instances import Instance, finished_instance
from weaksam.errors import ConfigError

C = TypeVar("C", bound=Content)

OPTIONS = ("of", "split", "out", "missing", "overwrite")  # of ``weaksam export``, which every format takes


class Product(StrEnum):
    """What an instance holds."""

    PROPOSALS = "proposals"
    DETECTIONS = "detections"
    PSEUDO_LABELS = "pseudo-labels"
    LABEL_MAPS = "label-maps"


class Missing(StrEnum):
    """What becomes of images without a row, because they were dropped or not asked for."""

    ERROR = "error"
    EMPTY = "empty"  # no boxes, where the format is a list of images; else they are left out


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where an export goes, and how."""

    out: str  # path or address of the file, or of the folder where the format is one
    pictures: PictureMode = PictureMode.LINK
    overwrite: bool = False  # replace an earlier export, see ``files``


@dataclass(frozen=True, kw_only=True)
class Export(Generic[C]):
    """How a product is written in a format."""

    write: Callable[[C, Target], str]  # returns what else to say to people of what was written
    suffix: str = ""  # of the file that it writes; empty = a folder of files
    takes: tuple[str, ...] = ()  # options of ``weaksam export`` besides ``OPTIONS``: "only", "pictures"


def run_export(
    run_uri: str,
    *,
    to: str,
    split: str,
    out: str,
    instance: str = "propose",
    missing: Missing = Missing.ERROR,
    only: str | None = None,
    pictures: PictureMode | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write one split of what an instance found.

    Args:
        run_uri: the run.
        to: the format, one of those that ``EXPORTS`` has for the instance's product.
        split: whose images.
        out: path or address of the file, or of the folder for formats of many files; a file appears whole or not at all.
        instance: ``propose``, ``import.<name>``, ``detect.<name>``, ``label``, ``seeds`` or another that holds such a product.
        missing: what becomes of images without a row.
        only: a file of image ids, one a line, or a COCO instances file, whose images are meant; None = all.
        pictures: whether they are put where the format's readers look; None = linked, if the format has a place for them.
        overwrite: replace an earlier export, see ``files``.

    Returns:
        ``images``, ``boxes``, ``empty`` (images without any box), ``missing`` and ``text``, lines for people.

    Raises:
        RunError: the run has no such finished instance.
        ConfigError: its product has no such format, or the format does not take an option.
        DataError: no image in the split or in ``only``, images without a row, ids, names or coordinates that the format
            cannot hold, or files that are there already.
    """
    index, source = finished_instance(run_uri, "index"), finished_instance(run_uri, instance)
    product = product_of(source)
    export = find_export(product, to)
    special = {"only": only, "pictures": pictures}
    given = [option for option, value in special.items() if value is not None]
    refuse_others(f"{to} of {product}", given, (*OPTIONS, *export.takes))
    images = images_of(index, split, only or "", skip_missing=missing == Missing.EMPTY)
    content = _GATHER[product](images, source)
    said = export.write(content, Target(out=out, pictures=pictures or PictureMode.LINK, overwrite=overwrite))
    return {**content.counts, "text": f"{out}: {to} · {content.text}{said}"}


_GATHER: dict[Product, Callable[[SplitImages, Instance], Content]] = {
    Product.PROPOSALS: proposals_of,
    Product.DETECTIONS: detections_of,
    Product.PSEUDO_LABELS: pseudo_labels_of,
    Product.LABEL_MAPS: label_maps_of,
}


_PRODUCTS = {
    ProposalTable: Product.PROPOSALS,
    DetectionTable: Product.DETECTIONS,
    PseudoLabelTable: Product.PSEUDO_LABELS,
    LabelMapTable: Product.LABEL_MAPS,
}


def product_of(instance: Instance) -> Product:
    """Return what a finished instance holds; raise ConfigError if that is nothing to export."""
    kind = registry.stage_of(instance.name).product
    for table, product in _PRODUCTS.items():
        if issubclass(kind, table):
            return product
    raise ConfigError(f"--of: expected an instance of {' or '.join(exported_verbs())}, got {instance.name}")


def exported_verbs() -> list[str]:
    """Return the verbs whose instances hold what is exported."""
    return [verb for verb, stage in registry.STAGES.items() if issubclass(stage.product, tuple(_PRODUCTS))]


def formats_of(product: str) -> list[str]:
    """Return the names of a product's formats; imports none of them."""
    return [name.partition(".")[2] for name in EXPORTS if name.partition(".")[0] == product]


def find_export(product: str, to: str) -> Export[Any]:
    """Return how a product is written in a format; raise ConfigError if it is not."""
    if to not in formats_of(product):
        raise ConfigError(
            f"--as: expected one of {', '.join(formats_of(product))}, got {to!r}; these are the formats of {product}"
        )
    return EXPORTS[f"{product}.{to}"]


def refuse_others(what: str, given: Collection[str], takes: Collection[str]) -> None:
    """Raise ConfigError if options were given that a format does not take."""
    others = [option for option in given if option not in takes]
    if others:
        raise ConfigError(f"--as {what} takes {_listed(takes)}, not {_listed(others)}; leave that out")


def _listed(options: Collection[str]) -> str:
    *first, last = [f"--{option}" for option in options]
    return f"{', '.join(first)} and {last}" if first else last
