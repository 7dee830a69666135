"""A data set: PNG files of one colour, ``SPLIT-COLOUR-NUMBER.png`` in one folder."""

from __future__ import annotations

from pathlib import Path

from weaksam.config import DataConfig
from weaksam.datasets.label_maps import NO_MAPS, TrueLabelMaps
from weaksam.structures import GroundTruth, ImageRecord

NAMES = ("red", "blue")


class Colours:
    """The colours are the labels; where they are in the picture is not annotated."""

    kind = "colours"
    class_names = NAMES
    passed_over = ()

    def __init__(self, config: DataConfig) -> None:
        self._files = sorted(Path(config.uri).glob("*-*-*.png"))
        self.splits = config.splits or tuple(sorted({path.name.split("-")[0] for path in self._files}))

    def records(self, split: str) -> list[ImageRecord]:
        """The colour in a file's name is its one label."""
        files = [path for path in self._files if path.name.startswith(f"{split}-")]
        labels = [(NAMES.index(path.name.split("-")[1]),) for path in files]
        return [
            ImageRecord(image_id=path.stem, uri=str(path), split=split, labels=label, labels_difficult=label)
            for path, label in zip(files, labels, strict=True)
        ]

    def ground_truth(self, split: str, *, masks: bool = False) -> dict[str, GroundTruth]:  # noqa: ARG002
        """There are no boxes."""
        return {}

    def true_label_maps(self, split: str) -> TrueLabelMaps:  # noqa: ARG002
        """There are none."""
        return NO_MAPS

    def fingerprint(self) -> str:
        """The names of the files."""
        return ",".join(path.name for path in self._files)
