"""Train the small SAM for photographs, or measure one: ``python -m tools.train_lite_sam --backgrounds photos/ [--out FILE]``.

The recipe of ``train_small_sam``, class-agnostic, on other pictures: drawn objects, their markings and blobs over squares of
photographs (three of four), half of the objects filled with a piece of another photograph, two of five pictures of four
drawings at half the size. What the photographs themselves show is never a target, and points on the background, whose
predicted IoU should be 0, are asked for on drawn grounds alone. EfficientNet-Lite's trunk does not learn; the prompt encoder
and the decoder begin with the built-in small SAM's weights.

    python -m tools.train_lite_sam --measure DATA [--sam NAME]

measures a SAM on the true boxes of a data set: a grid of 12 x 12 points, three masks each, best first by predicted IoU times
stability, boxes that overlap a better one by .8 left out; recall, one to one, of the first k boxes of each image, which is
scaled to a longer side of 320 pixels.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy import ndimage
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from tools.paste_shapes import random_square, read_photographs
from tools.train_small_sam import Corpus, box_of, decode, learning_rate, mask_losses, random_points, targets_of
from weaksam.boxes import nms_in_order
from weaksam.boxes_np import iou_float64
from weaksam.config import DataConfig, SamConfig
from weaksam.datasets import open_dataset
from weaksam.datasets.shapes import draw, reserved_seed
from weaksam.errors import DataError, WeaksamError
from weaksam.grids import grid_points
from weaksam.heap import keep_heap
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.io.files import read_bytes
from weaksam.io.images import decode_image
from weaksam.metrics.proposal_recall import match_one_to_one
from weaksam.sam import SAMS
from weaksam.sam.encode import encode_image
from weaksam.sam.lite import IMAGE_SIZE, build_lite_sam, trunk_weights, without_trunk
from weaksam.sam.load import load_sam
from weaksam.sam.measure import measure_prompts
from weaksam.sam.prompt import Prompt

logger = logging.getLogger(__name__)

SAVE_EVERY = 250  # steps
MEASURED_SIDE = 320  # pixels
GRID_SIDE = 12  # points
SUPPRESS_IOU = 0.8
COUNTS = (5, 10, 20, 50, 100, 200)  # boxes of an image
THRESHOLDS = (0.5, 0.75, 0.9)  # IoU


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the shipped weights are trained; what has the name of an option of ``train_small_sam.Recipe`` means the same."""

    seed: int = 0
    steps: int = 2400
    images: int = 3000  # drawings of the whole size, and as many of half
    batch_size: int = 8
    points: int = 3
    boxes: int = 1
    background: int = 1  # points on the ground, which count on drawn grounds
    part_weight: float = 1 / 3
    distractor_weight: float = 1 / 2
    four_drawings: float = 0.4  # probability that a picture is of four drawings
    on_photograph: float = 0.75  # that its ground is a photograph
    filled: float = 0.5  # that an object or a blob is filled with a piece of one
    lr: float = 1e-3  # of the encoder; the prompt encoder and the decoder learn at half of it
    warmup_steps: int = 100
    weight_decay: float = 0.02
    focal_weight: float = 5.0
    other_masks_weight: float = 0.05
    single_mask_weight: float = 0.25
    max_grad_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Source:
    """What pictures are made of."""

    whole: Corpus  # drawings of the network's size
    half: Corpus  # of half of it
    photographs: Sequence[NDArray[np.uint8]]


def draw_source(recipe: Recipe, photographs: Sequence[NDArray[np.uint8]]) -> Source:
    """Draw the first images reserved for training."""
    count = recipe.images
    return Source(
        whole=_corpus(0, count, IMAGE_SIZE), half=_corpus(count, count, IMAGE_SIZE // 2), photographs=photographs
    )


def _corpus(first: int, count: int, size: int) -> Corpus:
    corpus = Corpus(
        images=np.empty((count, size, size, 3), np.uint8), regions=np.empty((count, 3, size, size), np.uint8)
    )
    for index in range(count):
        drawing = draw(reserved_seed("sam-train", first + index), size)
        corpus.images[index] = drawing.image
        corpus.regions[index] = drawing.instance_map, drawing.part_map, drawing.distractor_map
    return corpus


def compose(
    source: Source, recipe: Recipe, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], bool]:
    """Make one picture.

    Returns:
        the picture ``[S, S, 3]``, the maps of its instances, parts and distractors ``[3, S, S]``, and whether its ground is a
        photograph.
    """
    if rng.random() < recipe.four_drawings:
        image, regions = _four(source.half, rng)
    else:
        pick = int(rng.integers(len(source.whole.images)))
        image, regions = source.whole.images[pick].copy(), source.whole.regions[pick].copy()
    on_photograph = bool(rng.random() < recipe.on_photograph)
    if on_photograph:
        image = _laid_over(image, _piece(source.photographs, rng), (regions[0] > 0) | (regions[2] > 0), rng)
    for kind in (0, 2):
        for number in np.unique(regions[kind]):
            if number and rng.random() < recipe.filled:
                mask = regions[kind] == number
                if rng.random() < 0.5:
                    mask &= regions[1] == 0  # its marking stays
                piece = _piece(source.photographs, rng).astype(np.float32)
                share, colour = rng.uniform(0.5, 1), image[mask].mean(0) if mask.any() else 0
                image = _laid_over((share * piece + (1 - share) * colour).astype(np.uint8), image, mask, rng)
    image = np.clip(image * rng.uniform(0.7, 1.3) + rng.uniform(-25, 25), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        sigma = rng.uniform(0.3, 1.0)
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0))
    return image, regions, on_photograph


def _four(half: Corpus, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    side = IMAGE_SIZE // 2
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    regions = np.zeros((3, IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for corner in range(4):
        pick = int(rng.integers(len(half.images)))
        rows = slice(corner // 2 * side, corner // 2 * side + side)
        columns = slice(corner % 2 * side, corner % 2 * side + side)
        image[rows, columns] = half.images[pick]
        own = half.regions[pick]
        regions[:, rows, columns] = np.where(own > 0, own + 40 * corner, 0)  # no drawing has 40 of a kind
    return image, regions


def _laid_over(
    top: NDArray[np.uint8], below: NDArray[np.uint8], mask: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Lay a picture over another where a mask says, with an edge that is sharp or soft."""
    opacity = ndimage.gaussian_filter(mask.astype(np.float32), rng.uniform(0.0, 0.9))[..., None]
    laid: NDArray[np.uint8] = (opacity * top + (1 - opacity) * below).astype(np.uint8)
    return laid


def _piece(photographs: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square of a photograph, perhaps mirrored, upside down, and of other colours."""
    piece = random_square(photographs[int(rng.integers(len(photographs)))], IMAGE_SIZE, rng)
    piece = np.rot90(piece[:, ::-1] if rng.random() < 0.5 else piece, int(rng.integers(2) * 2))
    return piece[..., rng.permutation(3)] if rng.random() < 0.3 else piece


def training_loss(sam: Sam, source: Source, recipe: Recipe, step: int) -> tuple[Tensor, dict[str, float]]:
    """The loss of the batch of ``step``, a function of the recipe's seed and the step alone, and its parts for the log."""
    rng = np.random.default_rng([recipe.seed, step])
    images, points, boxes, point_masks, box_masks, ground_points, drawn = [], [], [], [], [], [], []
    for _ in range(recipe.batch_size):
        image, regions, on_photograph = compose(source, recipe, rng)
        images.append(torch.from_numpy(image).permute(2, 0, 1).float())
        masks, weights = targets_of(regions, recipe.part_weight, recipe.distractor_weight)
        for pick in rng.choice(len(masks), recipe.points, p=weights):
            points.append(random_points(masks[pick], 1, rng))
            point_masks.append(masks[pick])
        for pick in rng.choice(len(masks), recipe.boxes, p=weights):
            boxes.append(_jittered(box_of(masks[pick]), rng))
            box_masks.append(masks[pick])
        ground = (regions[0] == 0) & (regions[2] == 0)
        ground_points += [random_points(ground, 1, rng) for _ in range(recipe.background)]
        drawn.append(not on_photograph)
    embeddings = sam.image_encoder((torch.stack(images) - sam.pixel_mean) / sam.pixel_std)

    every = torch.cat([_by_image(points, recipe), _by_image(ground_points, recipe)], dim=1).flatten(0, 1)
    sparse, dense = sam.prompt_encoder(points=(every, torch.ones(every.shape[:2])), boxes=None, masks=None)
    logits, ious = decode(sam, embeddings, sparse, dense)
    point_logits = logits.reshape(recipe.batch_size, -1, *logits.shape[1:])[:, : recipe.points].flatten(0, 1)
    ious = ious.reshape(recipe.batch_size, -1, ious.shape[1])
    sparse, dense = sam.prompt_encoder(points=None, boxes=_by_image(boxes, recipe).flatten(0, 1), masks=None)
    box_logits, box_ious = decode(sam, embeddings, sparse, dense)

    targets = torch.from_numpy(np.stack([*point_masks, *box_masks])).float()
    focal, dice, iou = mask_losses(torch.cat([point_logits, box_logits]), F.avg_pool2d(targets, 2))
    mask = recipe.focal_weight * focal + dice
    best = mask[:, 1:].min(1).values.mean()
    mask_loss = best + recipe.other_masks_weight * mask[:, 1:].mean() + recipe.single_mask_weight * mask[:, 0].mean()
    predicted = torch.cat([ious[:, : recipe.points].flatten(0, 1), box_ious])
    background = ious[torch.tensor(drawn), recipe.points :].flatten(0, 1)
    iou_loss = torch.cat([predicted - iou, background]).square().mean()
    parts = {
        "best": float(best.detach()),
        "iou": float(iou[:, 1:].max(1).values.mean()),
        "iou_loss": float(iou_loss.detach()),
    }
    return mask_loss + iou_loss, parts


def _by_image(arrays: Sequence[NDArray[np.float32]], recipe: Recipe) -> Tensor:
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.reshape(recipe.batch_size, -1, *stacked.shape[1:])


def _jittered(box: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    if rng.random() < 0.5:
        box = box + rng.uniform(-0.1, 0.1, 4).astype(np.float32) * np.tile(box[2:] - box[:2], 2)
    return np.clip(box, 0, IMAGE_SIZE)


def begun_sam() -> Sam:
    """The network with the installed trunk, and the built-in small SAM's prompt encoder and decoder."""
    sam = build_lite_sam()
    small = {
        name: value.float()
        for name, value in load_file(BUILTIN_WEIGHTS["sam"].path).items()
        if not name.startswith(("image_encoder.", "pixel_"))
    }
    encoder = {name: value for name, value in sam.state_dict().items() if name.startswith(("image_encoder.", "pixel_"))}
    sam.load_state_dict({**encoder, **small, **trunk_weights()})
    return sam


def train(recipe: Recipe, backgrounds: Path, out: Path) -> None:
    """Train from the start; ``out`` is written every ``SAVE_EVERY`` steps."""
    torch.manual_seed(recipe.seed)
    sam = begun_sam().train()
    learning = [p for p in sam.image_encoder.parameters() if p.requires_grad]
    rest = [*sam.prompt_encoder.parameters(), *sam.mask_decoder.parameters()]
    groups = [{"params": learning, "factor": 1.0}, {"params": rest, "factor": 0.5}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    photographs = read_photographs(backgrounds)
    source = draw_source(recipe, photographs)
    logger.info("%d photographs, %d drawings", len(photographs), 2 * recipe.images)
    started = time.monotonic()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(recipe, step)
        loss, parts = training_loss(sam, source, recipe, step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {float(loss)}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning + rest, recipe.max_grad_norm)
        optimizer.step()
        done = step + 1
        if done % 25 == 0:
            shown = {name: round(value, 4) for name, value in parts.items()}
            logger.info("step %d: %s, %.2f s a step", done, shown, (time.monotonic() - started) / done)
        if done % SAVE_EVERY == 0 or done == recipe.steps:
            save_weights(sam, out, {"step": str(done), "recipe": json.dumps(asdict(recipe))})


def save_weights(sam: Sam, path: Path, metadata: dict[str, str]) -> None:
    """Write all but the trunk, in half precision, as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = without_trunk(sam.state_dict())
    save_file({name: value.half().contiguous() for name, value in kept.items()}, path, metadata)


def measure(sam: Sam, data: str, split: str) -> dict[int, list[float]]:
    """Recall of a data set's true objects, one to one, of the first k boxes of each image, at each of ``THRESHOLDS``."""
    dataset = open_dataset(DataConfig(uri=data, splits=(split,)))
    truth = dataset.ground_truth(split)
    if not truth:
        raise DataError(
            f"{data}: expected true boxes of the split {split}, got none; name a VOC or COCO set that has some"
        )
    matched: dict[int, list[NDArray[np.float64]]] = {count: [] for count in COUNTS}
    for record in dataset.records(split):
        picture = Image.fromarray(decode_image(read_bytes(record.uri)))
        scale = MEASURED_SIDE / max(picture.size)
        image = np.asarray(picture.resize((round(picture.width * scale), round(picture.height * scale))))
        objects = truth[record.image_id].boxes_xyxy[~truth[record.image_id].difficult] * np.float32(scale)
        boxes = best_boxes(sam, image)
        for count in COUNTS:
            matched[count].append(match_one_to_one(iou_float64(objects, boxes[:count])))
    return {
        count: [float((np.concatenate(of) >= least).mean()) for least in THRESHOLDS] for count, of in matched.items()
    }


def best_boxes(sam: Sam, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Boxes ``[N, 4]`` of what a grid of points finds, the best first."""
    points = grid_points(image.shape[:2], GRID_SIDE)
    prompts = [Prompt(points_xy=point[None]) for point in points]
    found = measure_prompts(sam, encode_image(sam, image), prompts, stability_offset=1.0)
    score = (found.predicted_iou * found.stability)[~found.empty]
    order = score.argsort(descending=True, stable=True)
    boxes = found.boxes_xyxy[~found.empty][order]
    kept: NDArray[np.float32] = boxes[nms_in_order(boxes, SUPPRESS_IOU)].numpy()
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.train_lite_sam",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    installed = [name for name in SAMS if SAMS[name].weights]
    parser.add_argument("--backgrounds", type=Path, help="a folder of photographs to train with")
    parser.add_argument("--out", type=Path, default=BUILTIN_WEIGHTS["sam_lite"].path, help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", metavar="DATA", help="only measure, on this data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--sam", default="lite", choices=installed, help="which one is measured")
    options = parser.parse_args(arguments)
    if (options.measure is None) == (options.backgrounds is None):
        parser.error("expected --backgrounds to train, or --measure")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    keep_heap()
    if options.measure is None:
        train(Recipe(seed=options.seed, steps=options.steps), options.backgrounds, options.out)
        return
    try:
        recalls = measure(load_sam(SamConfig(name=options.sam)), options.measure, options.split)
    except WeaksamError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"boxes {' '.join(f'R@{least:g}'.rjust(7) for least in THRESHOLDS)}")
    for count, recall in recalls.items():
        print(f"{count:5} {' '.join(f'{100 * share:7.1f}' for share in recall)}")


if __name__ == "__main__":
    main()
