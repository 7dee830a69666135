"""``analyse.noise``, Fig. 3 and 7: do a region's losses tell whether its pseudo label is wrong? (method 9.5)

The retrained Faster R-CNN, as it was when RoI drop began, looks at its training images at the first scale of
``retrain.scales``; up to 50 regions of each are sampled, nine in ten foreground. A foreground region is an *error* if no true
object overlaps its pseudo box enough. Each loss is min-max normalised over all regions and counted in ten bins. What RoI drop
would drop of the same regions is counted beside it. True boxes only judge: nothing here is trained. Runs on the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.analyse.question import Question
from pipelines.engine.product import Facts
from pipelines.engine.stage import Job
from pipelines.engine.voice import Kind, TextTable
from pipelines.products.index import Index, in_hash_order
from pipelines.products.measured import Analysis
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.recipe.config import RetrainStageConfig
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe
from pipelines.stages.retrain.stage import TrainedDetector, choose_images
from pipelines.store.numbers import percent
from weaksam.config import DataConfig, FasterRcnnConfig, RoiDropConfig, require
from weaksam.config.weights import NotInKey
from weaksam.datasets.ground_truth import StatedSize, true_objects
from weaksam.errors import DataError, ImageError, OptionError
from weaksam.structures import GroundTruth, PseudoGroundTruth

if TYPE_CHECKING:
    from pipelines.stages.retrain.task import BoxedImage, RetrainTask
    from weaksam.detectors.retrained.faster_rcnn import FasterRcnn

logger = logging.getLogger(__name__)

BINS = 10
ERROR_IOU = 0.7  # with a true object, above which a pseudo box is no error (published)
OTHER_ERROR_IOUS = (0.25, 0.5)
WRONG_IOU = 0.5  # with a true object of its class, from which on a label is right; of a region with any, for background
LOSSES = {"cls": "classification loss", "reg": "box loss"}


@dataclass(frozen=True, kw_only=True)
class NoiseOptions:
    """Which training's losses are judged, on which of its images."""

    index: Input = INDEX
    learn_from: Input
    model: Input
    images: int  # first in hash order; 0 = all
    scale: int  # pixels, shorter side of the view
    drop: RoiDropConfig
    stated_size: StatedSize
    retrain: NotInKey[RetrainStageConfig]
    data: NotInKey[DataConfig]


class NoiseQuestion(Question[NoiseOptions]):
    """Do losses tell which labels are wrong?"""

    title = "do losses tell which pseudo labels are wrong (Fig. 3, 7)?"

    def is_idle(self, recipe: Recipe) -> bool:
        """Whether there is no training here, or one of a detector without regions."""
        retrain = recipe.of(recipe.analyse.retrained).retrain
        return bool(retrain.weights) or not isinstance(retrain.detector, FasterRcnnConfig)

    def options(self, recipe: Recipe) -> NoiseOptions:
        """Look up how the detector was trained.

        Raises:
            ConfigError: it has no regions, or was not trained here.
        """
        question = recipe.analyse
        retrain = recipe.of(question.retrained).retrain
        wanted = f"{question.retrained}.detector=faster_rcnn, which has regions"
        detector = retrain.detector
        if not isinstance(detector, FasterRcnnConfig):
            raise OptionError("analyse.retrained", f"expected {wanted}, got {detector.name!r}")
        trained = not retrain.weights
        require(trained, "analyse.retrained", "a detector that this run retrains", f"weights {retrain.weights.uri}")
        return NoiseOptions(
            learn_from=retrain.learn_from,
            model=question.retrained,
            images=question.noise_images,
            scale=retrain.scales[0],
            drop=detector.drop,
            stated_size=recipe.data.stated_size,
            retrain=retrain,
            data=recipe.data,
        )

    def run(self, job: Job[NoiseOptions]) -> Facts:
        """Measure and print; without true boxes there is nothing to measure and no answer."""
        from weaksam.datasets import open_dataset

        split = job.input(job.options.index, Index).granted_split
        truth = open_dataset(job.options.data).ground_truth(split)
        if not truth:
            return Facts(text="the true boxes of the training images are not known: nothing to judge by")
        analysis = measure(job, truth)
        Analysis(job.instance).write(analysis)
        for loss in LOSSES:
            job.voice.table(text_table(analysis, loss))
        return Facts(text=verdict(analysis))


class Regions(NamedTuple):
    """Sampled regions, image after image."""

    loss_cls: NDArray[np.float32]  # [R]
    loss_reg: NDArray[np.float32]  # [R], 0 for background
    foreground: NDArray[np.bool_]  # [R]
    # [R], of its pseudo box with the closest true object of any class; 0 for background
    pseudo_iou: NDArray[np.float32]
    wrong: NDArray[np.bool_]  # [R], whether its label is wrong: see ``judge``


def measure(job: Job[NoiseOptions], truth: Mapping[str, GroundTruth]) -> dict[str, Any]:
    """Collect the losses of sampled regions, bin them, and count what RoI drop drops.

    Args:
        job: of the instance.
        truth: image id -> true objects of the training images.

    Returns:
        ``images``, ``unreadable`` images beside these, ``regions`` (foreground), ``step`` of ``steps`` that is looked at;
        ``error_rate`` by IoU; ``losses``: for "cls" and "reg" their ``minimum``, ``maximum``, ``bins`` (``count`` and, by IoU,
        ``error_rate``, null for an empty bin) and ``auroc``: how often a region that is an error has a higher loss than one
        that is not (by IoU, null without both); ``drop``: see ``what_is_dropped``.

    Raises:
        DataError: none of the images can be read.
    """
    task, detector, step = _preliminary(job)
    found, unreadable = sampled_regions(task, detector, truth, job.options.images)
    every = Regions(*(np.concatenate(column) for column in zip(*found, strict=True)))
    ious = every.pseudo_iou[every.foreground]
    errors = {str(threshold): ious <= threshold for threshold in (ERROR_IOU, *OTHER_ERROR_IOUS)}
    losses = {"cls": every.loss_cls[every.foreground], "reg": every.loss_reg[every.foreground]}
    return {
        "images": len(found),
        "unreadable": unreadable,
        "regions": len(ious),
        "step": step,
        "steps": task.plan.steps,
        "error_rate": {iou: share(wrong) for iou, wrong in errors.items()},
        "losses": {name: of_loss(values, errors) for name, values in losses.items()},
        "drop": what_is_dropped(every, detector.drop_in_numbers()),
    }


def what_is_dropped(regions: Regions, config: RoiDropConfig) -> dict[str, Any]:
    """Count what RoI drop drops of sampled regions, whether or not the recipe turns it on.

    Returns:
        for "foreground" and "background" each: ``regions``, ``dropped``, ``wrong`` and ``wrong_dropped``, all counts; the
        drop's precision is ``wrong_dropped / dropped``, its recall ``wrong_dropped / wrong``.
    """
    import torch

    from weaksam.losses.drop import roi_keep

    loss_cls, loss_reg = torch.from_numpy(regions.loss_cls), torch.from_numpy(regions.loss_reg)
    dropped = ~roi_keep(loss_cls, loss_reg, torch.from_numpy(regions.foreground), config).numpy()
    return {
        name: {
            "regions": int(of.sum()),
            "dropped": int((of & dropped).sum()),
            "wrong": int((of & regions.wrong).sum()),
            "wrong_dropped": int((of & regions.wrong & dropped).sum()),
        }
        for name, of in (("foreground", regions.foreground), ("background", ~regions.foreground))
    }


def judge(
    boxes_xyxy: NDArray[np.float32],
    target_index: NDArray[np.int64],
    pseudo: PseudoGroundTruth,
    truth: GroundTruth,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Judge one image's regions by its true objects.

    Args:
        boxes_xyxy: regions ``[R, 4]``, pixels of the image.
        target_index: ``[R]``, the pseudo box that a region is to find, -1 for background.
        pseudo: N pseudo boxes.
        truth: G true objects, difficult ones included.

    Returns:
        the IoU of each region's pseudo box with the closest object of any class ``[R]``, 0 for background; and whether its
        label is wrong, bool ``[R]``: the pseudo box overlaps no object of its class with an IoU of .5 or more, or the region
        is background and overlaps some object that much.
    """
    foreground = target_index >= 0
    of_any = best_ious(pseudo.boxes_xyxy, truth.boxes_xyxy)
    of_class = np.array(
        [
            best_ious(box[None], truth.boxes_xyxy[truth.class_index == c])[0]
            for box, c in zip(pseudo.boxes_xyxy, pseudo.class_index, strict=True)
        ],
        np.float32,
    )
    pseudo_iou, wrong = np.zeros(len(boxes_xyxy), np.float32), np.zeros(len(boxes_xyxy), np.bool_)
    pseudo_iou[foreground] = of_any[target_index[foreground]]
    wrong[foreground] = of_class[target_index[foreground]] < WRONG_IOU
    wrong[~foreground] = best_ious(boxes_xyxy[~foreground], truth.boxes_xyxy) >= WRONG_IOU
    return pseudo_iou, wrong


def share(flags: NDArray[np.bool_]) -> float | None:
    """Return the share of True, None of nothing."""
    return float(flags.mean()) if len(flags) else None


def of_loss(values: NDArray[np.float32], errors: Mapping[str, NDArray[np.bool_]]) -> dict[str, Any]:
    """Bin losses ``[R]`` between the smallest and the largest, in ``BINS`` equal parts.

    Args:
        values: one per region; R may be 0.
        errors: by IoU, bool ``[R]``.
    """
    if not len(values):
        return {"minimum": None, "maximum": None, "bins": [], "auroc": dict.fromkeys(errors)}
    low, high = float(values.min()), float(values.max())
    normalised = (values - low) / (high - low) if high > low else np.zeros(len(values))
    bins = np.minimum((normalised * BINS).astype(int), BINS - 1)
    rows = []
    for n in range(BINS):
        inside = bins == n
        rates = {iou: share(wrong[inside]) for iou, wrong in errors.items()}
        rows.append({"count": int(inside.sum()), "error_rate": rates})
    return {
        "minimum": low,
        "maximum": high,
        "bins": rows,
        "auroc": {iou: auroc(values, e) for iou, e in errors.items()},
    }


def auroc(values: NDArray[np.float32], positive: NDArray[np.bool_]) -> float | None:
    """Return how often a positive one's value exceeds a negative one's, ties counted half; None without both kinds."""
    from scipy.stats import rankdata

    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return None
    ranks = rankdata(values)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def best_ious(boxes_xyxy: NDArray[np.float32], objects_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the largest IoU of each of N boxes with any of G objects, whatever their classes; 0 where there are none."""
    import torch

    from weaksam.boxes import iou_matrix

    if not len(objects_xyxy):
        return np.zeros(len(boxes_xyxy), np.float32)
    ious = iou_matrix(torch.from_numpy(boxes_xyxy), torch.from_numpy(objects_xyxy)).amax(dim=1)
    return np.asarray(ious.numpy(), np.float32)


def text_table(analysis: Mapping[str, Any], loss: str) -> TextTable:
    """Lay out one loss's bins for people to read."""
    found = analysis["losses"][loss]
    text = TextTable(f"{LOSSES[loss]}, {analysis['regions']:,} foreground regions")
    text.add_columns(Kind.NAME, "bin")
    text.add_columns(Kind.FIGURE, "regions", f"error rate, % (IoU {ERROR_IOU:g})")
    for n, row in enumerate(found["bins"]):
        edges = f"{n / BINS:.1f} to {(n + 1) / BINS:.1f}"
        text.add_row(edges, f"{row['count']:,}", percent(row["error_rate"][str(ERROR_IOU)]))
    return text


def verdict(analysis: Mapping[str, Any]) -> str:
    """Say in one line what the losses tell."""
    parts = []
    for name, what in LOSSES.items():
        value = analysis["losses"][name]["auroc"][str(ERROR_IOU)]
        parts.append(f"{what} {'not measured' if value is None else f'{value:.2f}'}")
    dropped = analysis["drop"]["foreground"]
    drop = "it drops none"
    if dropped["dropped"]:
        drop = f"it drops {dropped['dropped']:,}, of which {percent(dropped['wrong_dropped'] / dropped['dropped'])} % are wrong"
    unreadable = analysis.get("unreadable", 0)  # analyses of earlier versions do not say it
    apart = f" ({unreadable:,} more cannot be read)" if unreadable else ""
    return (
        f"{analysis['regions']:,} foreground regions of {analysis['images']:,} images{apart} at step {analysis['step']:,}, "
        f"{percent(analysis['error_rate'][str(ERROR_IOU)])} % errors; AUROC of {', of '.join(parts)} (chance .50); "
        f"RoI drop: {drop} ({percent(dropped['wrong'] / max(dropped['regions'], 1))} % of all are)"
    )


def _preliminary(job: Job[NoiseOptions]) -> tuple[RetrainTask, FasterRcnn, int]:
    """Return the training as it was when the drop began, on the GPU if there is one."""
    import torch

    from pipelines.stages.retrain.task import RetrainTask
    from weaksam.detectors.retrained.faster_rcnn import FasterRcnn

    options, index = job.options, job.input(job.options.index, Index)
    labelled = job.input(options.learn_from, PseudoLabelTable).images()
    images, _, _ = choose_images(labelled, index.pictures(), options.retrain.min_box_side)
    task = RetrainTask(config=options.retrain, num_classes=len(index.class_names), images=images)
    (step,) = task.plan.keep
    state = job.input(options.model, TrainedDetector).checkpoints(task.plan).at(step)
    detector = task.build_model()
    assert isinstance(detector, FasterRcnn)
    detector.load_state_dict(state["model"])
    if detector.loss_history is not None:
        detector.loss_history.settle()  # on what it would choose now
    return task, detector.to("cuda" if torch.cuda.is_available() else "cpu"), step


def sampled_regions(
    task: RetrainTask, detector: FasterRcnn, truth: Mapping[str, GroundTruth], most: int
) -> tuple[list[Regions], int]:
    """Return the sampled regions of each of the first training images in hash order, and how many others cannot be read.

    The training went on without the latter, too.

    Raises:
        DataError: none of them can be read.
    """
    from weaksam.io.files import read_bytes
    from weaksam.io.images import decode_image

    by_id = {image.image_id: image for image in task.images}
    found, trouble = [], []
    for image_id in in_hash_order(list(by_id))[: most or None]:
        try:
            pixels = decode_image(read_bytes(by_id[image_id].uri))
        except ImageError as error:
            logger.warning("image %s: its regions are not sampled: %s", image_id, error)
            trouble.append(str(error))
            continue
        found.append(_regions_of(by_id[image_id], pixels, task, detector, truth))
    if not found:
        raise DataError(
            f"none of {len(trouble):,} training images can be read, the first because: {trouble[0]}; check that the data "
            "are where the images table says"
        )
    return found, len(trouble)


def _regions_of(
    image: BoxedImage,
    pixels: NDArray[np.uint8],
    task: RetrainTask,
    detector: FasterRcnn,
    truth: Mapping[str, GroundTruth],
) -> Regions:
    """Return the sampled regions of an image whose ``pixels`` are ``[H, W, 3]``."""
    import torch

    from weaksam.detectors.mil.samples import scaled
    from weaksam.detectors.retrained.base import Targets
    from weaksam.detectors.retrained.samples import collate_boxes
    from weaksam.random import derive_seed

    device, pseudo = next(detector.parameters()).device, image.truth
    view, boxes = scaled(pixels, pseudo.boxes_xyxy, task.config.scales[0], task.config.max_side)
    targets = Targets(torch.from_numpy(boxes).to(device), torch.from_numpy(pseudo.class_index).to(device))
    batch = collate_boxes([(detector.backbone.pixels.normalise(view), targets)])
    seed = derive_seed("noise", image.image_id)
    found = detector.roi_losses(batch.images.to(device), batch.sizes_hw, batch.targets, seed=seed)
    to_image = np.array([pixels.shape[1] / view.shape[1], pixels.shape[0] / view.shape[0]] * 2, np.float32)
    regions = found.boxes_xyxy.cpu().numpy() * to_image
    objects = true_objects(truth, image.image_id, (pixels.shape[0], pixels.shape[1]))
    judged = judge(regions, found.target_index.cpu().numpy(), pseudo, objects)
    return Regions(found.loss_cls.cpu().numpy(), found.loss_reg.cpu().numpy(), found.foreground.cpu().numpy(), *judged)


QUESTION = NoiseQuestion()
