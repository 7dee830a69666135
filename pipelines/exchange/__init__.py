"""Files of other projects: what ``weaksam export`` writes, and ``import`` and ``import-masks`` read; one module per format.

To add a format: a function that writes what ``content`` holds of a split, an ``Export`` of it, and a line in ``EXPORTS``, or an
entry point of the group ``weaksam.exports``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weaksam.registry import Registry

if TYPE_CHECKING:
    from pipelines.exchange.export import Export

EXPORTS: Registry[Export[Any]] = Registry(
    "weaksam.exports",
    {  # by product.format
        "proposals.wetectron": "pipelines.exchange.wetectron:PROPOSALS",
        "proposals.mmdet": "pipelines.exchange.mmdet:PROPOSALS",
        "proposals.coco": "pipelines.exchange.coco:PROPOSALS",
        "detections.voc": "pipelines.exchange.voc:DETECTIONS",
        "detections.coco": "pipelines.exchange.coco:DETECTIONS",
        "detections.coco-segm": "pipelines.exchange.coco:DETECTED_MASKS",
        "pseudo-labels.coco": "pipelines.exchange.coco:LABELS",
        "pseudo-labels.coco-polygons": "pipelines.exchange.coco:LABELS_AS_POLYGONS",
        "pseudo-labels.labelme": "pipelines.exchange.labelme:LABELS",
        "pseudo-labels.voc": "pipelines.exchange.voc:LABELS",
        "pseudo-labels.yolo": "pipelines.exchange.yolo:LABELS",
        "label-maps.voc": "pipelines.exchange.voc_masks:LABEL_MAPS",
        "label-maps.coco": "pipelines.exchange.coco:LABEL_MAPS",
        "label-maps.cityscapes": "pipelines.exchange.cityscapes:LABEL_MAPS",
    },
)
