"""Train the built-in small SAM on drawn shapes, or measure it: ``python -m tools.train_small_sam [--evaluate]``.

SAM's own recipe (Kirillov et al. 2023, section 3) in miniature: points and boxes against masks of whole objects, of their
markings and of class-agnostic blobs, with focal and dice loss on the best of three masks and a squared error on the
predicted IoU. One thing is added: points on the background, for which the predicted IoU should be 0 - without them the
prediction says nothing about whether anything is there. No class label is used. Training and test images come from
ranges of seeds that no data set reaches (``shapes.RESERVED``).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import ndimage
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from weaksam.datasets.shapes import draw, reserved_seed
from weaksam.heap import keep_heap
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.masks_np import tight_box
from weaksam.sam.small import IMAGE_SIZE, build_small_sam

logger = logging.getLogger(__name__)

SAVE_EVERY = 500  # steps
VAL_IMAGES = 60  # measured at every save
TEST_IMAGES = 300  # measured at the end and by --evaluate


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the shipped weights are trained."""

    seed: int = 0
    steps: int = 4000
    images: int = 20_000  # drawn once, then mirrored, transposed and recoloured at random
    batch_size: int = 16  # images per step
    points: int = 3  # prompts per image of 1 to 3 positive points
    boxes: int = 1  # box prompts per image
    background: int = 1  # single points on the background per image
    several_points: float = 0.15  # probability that a step prompts with 2 or 3 points instead of 1
    part_weight: float = 1 / 3  # chance of a marking to be the target, relative to a whole object
    distractor_weight: float = 1 / 2  # chance of a blob
    lr: float = 1e-3  # peak, after a linear warm-up; then cosine to 0
    warmup_steps: int = 200
    weight_decay: float = 0.02
    focal_weight: float = 5.0  # published: 20, which so small a model answers with empty masks
    other_masks_weight: float = 0.05  # of the mean over the three masks, beside the best one
    single_mask_weight: float = 0.25  # of the fourth mask, which SAM returns when asked for one only
    max_grad_norm: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Drawn images held in memory."""

    images: NDArray[np.uint8]  # [B, H, W, 3]
    regions: NDArray[np.uint8]  # [B, 3, H, W] the maps of instances, parts and distractors


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images with their prompts; prompts of one image lie side by side, points before background."""

    images: Tensor  # [B, 3, H, W] 0..255
    points_xy: Tensor  # [B, P, n, 2]
    background_xy: Tensor  # [B, P, n, 2] the same point n times
    boxes_xyxy: Tensor  # [B, P, 4]
    point_targets: Tensor  # [B, P, H / 2, W / 2] share of each mask pixel that belongs to the target
    box_targets: Tensor  # [B, P, H / 2, W / 2]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Quality on whole objects; IoU against the visible pixels, means over objects."""

    centre_best: float  # best of three masks for the pixel deepest inside the object
    centre_top1: float  # the mask with the highest predicted IoU
    random_best: float  # for any visible pixel of the object
    random_top1: float
    part_best: float  # best of three masks against the marking, for any pixel of the marking
    box_best: float
    box_top1: float
    box_single: float  # the mask that SAM returns when asked for one only
    background_predicted_iou: float  # mean over points and masks; should be 0
    background_predicted_iou_max: float  # of the highest of the three masks, mean over points
    random_predicted_iou_error: float  # mean |predicted - true IoU| over points on objects and masks


def draw_corpus(purpose: str, count: int, workers: int) -> Corpus:
    """Draw the first ``count`` images reserved for ``purpose`` in ``workers`` processes."""
    corpus = Corpus(
        images=np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8),
        regions=np.empty((count, 3, IMAGE_SIZE, IMAGE_SIZE), np.uint8),
    )
    seeds = [reserved_seed(purpose, index) for index in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        for index, drawing in enumerate(pool.map(partial(draw, size=IMAGE_SIZE), seeds, chunksize=64)):
            corpus.images[index] = drawing.image
            corpus.regions[index] = drawing.instance_map, drawing.part_map, drawing.distractor_map
    return corpus


def sample_batch(corpus: Corpus, recipe: Recipe, step: int) -> Batch:
    """The batch of ``step``: a function of the recipe's seed and the step alone, so that resumed training is the same."""
    rng = np.random.default_rng([recipe.seed, step])
    per_point = int(rng.integers(2, 4)) if rng.random() < recipe.several_points else 1
    images, points, background, boxes, point_masks, box_masks = [], [], [], [], [], []
    for index in rng.integers(0, len(corpus.images), recipe.batch_size):
        image, regions = _augment(corpus.images[index], corpus.regions[index], rng)
        images.append(image)
        masks, weights = targets_of(regions, recipe.part_weight, recipe.distractor_weight)
        for pick in rng.choice(len(masks), recipe.points, p=weights):
            points.append(random_points(masks[pick], per_point, rng))
            point_masks.append(masks[pick])
        for pick in rng.choice(len(masks), recipe.boxes, p=weights):
            boxes.append(_jittered_box(masks[pick], rng))
            box_masks.append(masks[pick])
        ground = (regions[0] == 0) & (regions[2] == 0)
        background += [random_points(ground, 1, rng).repeat(per_point, 0) for _ in range(recipe.background)]
    return Batch(
        images=_per_image(images, recipe).squeeze(1).permute(0, 3, 1, 2).float(),
        points_xy=_per_image(points, recipe),
        background_xy=_per_image(background, recipe),
        boxes_xyxy=_per_image(boxes, recipe),
        point_targets=F.avg_pool2d(_per_image(point_masks, recipe).float(), 2),
        box_targets=F.avg_pool2d(_per_image(box_masks, recipe).float(), 2),
    )


def _per_image(arrays: Sequence[NDArray[Any]], recipe: Recipe) -> Tensor:
    stacked = torch.from_numpy(np.stack(arrays))
    return stacked.reshape(recipe.batch_size, -1, *stacked.shape[1:])


def _augment(
    image: NDArray[np.uint8], regions: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One of the eight symmetries of the square, and any order of the colour channels."""
    if rng.random() < 0.5:
        image, regions = image[:, ::-1], regions[:, :, ::-1]
    turns = int(rng.integers(4))
    return np.rot90(image, turns)[..., rng.permutation(3)], np.rot90(regions, turns, axes=(1, 2))


def targets_of(
    regions: NDArray[np.uint8], part_weight: float, distractor_weight: float
) -> tuple[list[NDArray[np.bool_]], NDArray[np.float64]]:
    """Every region of an image large enough to be asked for, and the probability to ask for it; see ``Recipe``."""
    masks, weights = [], []
    for kind, weight in enumerate((1.0, part_weight, distractor_weight)):
        pixels = np.bincount(regions[kind].ravel())
        for number in range(1, len(pixels)):
            if pixels[number] >= 8:
                masks.append(regions[kind] == number)
                weights.append(weight)
    return masks, np.array(weights) / sum(weights)


def random_points(mask: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Pixels of a mask, ``[count, 2]`` x and y."""
    rows, columns = np.nonzero(mask)
    pick = rng.integers(0, len(rows), count)
    return np.stack([columns[pick], rows[pick]], axis=1).astype(np.float32)


def _jittered_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """The mask's box, every other time with its sides moved by up to a tenth of its size."""
    box = box_of(mask)
    if rng.random() < 0.5:
        box += rng.uniform(-0.1, 0.1, 4).astype(np.float32) * np.tile(box[2:] - box[:2], 2)
    return np.clip(box, 0, IMAGE_SIZE)


def box_of(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The tightest box around a mask, XYXY."""
    return np.array(tight_box(mask), np.float32)


def decode(sam: Sam, embeddings: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """All four masks and predicted IoUs for the prompts of several images, P for each.

    segment-anything's mask decoder takes one image at a time; this runs its parts on ``embeddings`` ``[B, D, h, w]`` with
    ``sparse`` ``[B * P, T, D]`` and ``dense`` ``[B * P, D, h, w]``. Returns logits ``[B * P, 4, 4h, 4w]`` (mask 0 is the
    single one) and predicted IoUs ``[B * P, 4]``.
    """
    decoder = sam.mask_decoder
    prompts = len(sparse)
    per_image = prompts // len(embeddings)
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output_tokens.expand(prompts, -1, -1), sparse], dim=1)
    source = embeddings.unsqueeze(1).expand(-1, per_image, -1, -1, -1).flatten(0, 1) + dense
    position = sam.prompt_encoder.get_dense_pe().expand(prompts, -1, -1, -1)
    hidden, source_out = decoder.transformer(source, position, tokens)
    upscaled = decoder.output_upscaling(source_out.transpose(1, 2).unflatten(2, source.shape[2:]))
    weights = [mlp(hidden[:, 1 + k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    logits = torch.einsum("pmc,pchw->pmhw", torch.stack(weights, dim=1), upscaled)
    return logits, decoder.iou_prediction_head(hidden[:, 0])


def mask_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Focal loss (gamma 2, mean over pixels), dice loss and true IoU of ``logits`` ``[P, M, h, w]``.

    ``targets`` ``[P, h, w]`` are shares 0..1; for the IoU both sides are cut at one half. Each result is ``[P, M]``. An
    empty prediction of an empty target has dice loss 0 and IoU 1.
    """
    targets = targets.unsqueeze(1).expand_as(logits)
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    focal = ((probability - targets).square() * cross_entropy).mean((2, 3))
    overlap = (probability * targets).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + targets.sum((2, 3)) + 1)
    with torch.no_grad():
        iou = _iou(logits > 0, targets >= 0.5)
    return focal, dice, iou


def _iou(predicted: Tensor, target: Tensor) -> Tensor:
    """IoU over the last two axes of boolean masks; two empty masks agree."""
    union = (predicted | target).sum((-2, -1))
    return torch.where(union > 0, (predicted & target).sum((-2, -1)) / union.clamp(min=1), 1.0)


def training_loss(sam: Sam, batch: Batch, recipe: Recipe) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and its parts for the log."""
    images = (batch.images - sam.pixel_mean) / sam.pixel_std
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = sam.image_encoder(images.contiguous(memory_format=torch.channels_last)).float()

    points = torch.cat([batch.points_xy, batch.background_xy], dim=1).flatten(0, 1)
    labels = torch.ones(points.shape[:2])
    sparse, dense = sam.prompt_encoder(points=(points, labels), boxes=None, masks=None)
    logits, point_ious = decode(sam, embeddings, sparse, dense)
    point_logits = logits.reshape(recipe.batch_size, -1, *logits.shape[1:])[:, : recipe.points].flatten(0, 1)
    point_ious = point_ious.reshape(recipe.batch_size, -1, point_ious.shape[1])
    sparse, dense = sam.prompt_encoder(points=None, boxes=batch.boxes_xyxy.flatten(0, 1), masks=None)
    box_logits, box_ious = decode(sam, embeddings, sparse, dense)

    logits = torch.cat([point_logits, box_logits]).float()
    targets = torch.cat([batch.point_targets.flatten(0, 1), batch.box_targets.flatten(0, 1)])
    focal, dice, iou = mask_losses(logits, targets)
    mask = recipe.focal_weight * focal + dice
    best = mask[:, 1:].min(1).values.mean()
    mask_loss = best + recipe.other_masks_weight * mask[:, 1:].mean() + recipe.single_mask_weight * mask[:, 0].mean()
    predicted = torch.cat([point_ious[:, : recipe.points].flatten(0, 1), box_ious])
    background = point_ious[:, recipe.points :].flatten(0, 1)
    errors = torch.cat([predicted - iou, background])
    iou_loss = errors.square().mean()
    parts = {
        "best": float(best.detach()),
        "iou": float(iou[:, 1:].max(1).values.mean()),
        "iou_loss": float(iou_loss.detach()),
    }
    return mask_loss + iou_loss, parts


def train(recipe: Recipe, out: Path, *, workers: int = 1, resume: bool = False) -> Sam:
    """Train from scratch, or with ``resume`` from the checkpoint beside ``out``; writes ``out`` every ``SAVE_EVERY`` steps."""
    checkpoint = out.with_suffix(".checkpoint")
    torch.manual_seed(recipe.seed)
    sam = build_small_sam().train()
    optimizer = torch.optim.AdamW(sam.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    first = 0
    if resume:
        state = torch.load(checkpoint, weights_only=True)
        sam.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    started = time.monotonic()
    corpus = draw_corpus("sam-train", recipe.images, workers)
    logger.info("drew %d images in %.0f s", recipe.images, time.monotonic() - started)

    started = time.monotonic()
    for step in range(first, recipe.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(recipe, step)
        loss, parts = training_loss(sam, sample_batch(corpus, recipe, step), recipe)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {float(loss)}")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(sam.parameters(), recipe.max_grad_norm)
        optimizer.step()
        done = step + 1
        if done % 50 == 0:
            per_step = (time.monotonic() - started) / (done - first)
            logger.info("step %d: %s, %.2f s a step", done, {k: round(v, 4) for k, v in parts.items()}, per_step)
        if done % SAVE_EVERY == 0 or done == recipe.steps:
            save_weights(sam, out, {"step": str(done), "recipe": json.dumps(asdict(recipe))})
            torch.save({"model": sam.state_dict(), "optimizer": optimizer.state_dict(), "step": done}, checkpoint)
            logger.info("step %d: %s", done, evaluate(load_weights(out), "sam-val", VAL_IMAGES))
    return load_weights(out)


class Schedule(Protocol):
    """What a recipe says of its learning rate."""

    @property
    def lr(self) -> float:
        """The peak."""

    @property
    def warmup_steps(self) -> int:
        """Until the peak."""

    @property
    def steps(self) -> int:
        """In all."""


def learning_rate(recipe: Schedule, step: int) -> float:
    """Linear warm-up to ``recipe.lr``, then half a cosine to 0 at the last step."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(recipe.steps - recipe.warmup_steps, 1)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))


def save_weights(sam: Sam, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights in half precision as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in sam.state_dict().items()}, path, metadata)


def load_weights(path: Path) -> Sam:
    """A small SAM in evaluation mode with the weights of ``path``."""
    sam = build_small_sam()
    sam.load_state_dict(load_file(path))
    return sam


@torch.no_grad()
def evaluate(sam: Sam, purpose: str, count: int) -> Figures:
    """Measure ``sam`` through its published decoder on the first ``count`` images reserved for ``purpose``."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {field.name: [] for field in fields(Figures)}
    for index in range(count):
        drawing = draw(reserved_seed(purpose, index), IMAGE_SIZE)
        masks = [drawing.instance_map == k + 1 for k in range(len(drawing.class_index)) if not drawing.difficult[k]]
        parts = [part for k in range(len(drawing.class_index)) if (part := drawing.part_map == k + 1).sum() >= 8]
        ground = (drawing.instance_map == 0) & (drawing.distractor_map == 0)
        centres = [_deepest_pixel(mask) for mask in masks]
        anywhere = [random_points(mask, 1, rng)[0] for mask in masks]
        on_parts = [random_points(part, 1, rng)[0] for part in parts]
        off_objects = list(random_points(ground, 8, rng))
        embedding = sam.image_encoder(sam.preprocess(torch.from_numpy(drawing.image).permute(2, 0, 1).float())[None])

        truth = _stack(masks)
        ious, predicted = _prompt(sam, embedding, truth, points=centres)
        found["centre_best"] += ious.max(1).values.tolist()
        found["centre_top1"] += ious.gather(1, predicted.argmax(1, keepdim=True)).flatten().tolist()
        ious, predicted = _prompt(sam, embedding, truth, points=anywhere)
        found["random_best"] += ious.max(1).values.tolist()
        found["random_top1"] += ious.gather(1, predicted.argmax(1, keepdim=True)).flatten().tolist()
        found["random_predicted_iou_error"] += (predicted - ious).abs().flatten().tolist()
        ious, predicted = _prompt(sam, embedding, truth, boxes=[box_of(mask) for mask in masks])
        found["box_best"] += ious.max(1).values.tolist()
        found["box_top1"] += ious.gather(1, predicted.argmax(1, keepdim=True)).flatten().tolist()
        ious, _ = _prompt(sam, embedding, truth, boxes=[box_of(mask) for mask in masks], multimask=False)
        found["box_single"] += ious.flatten().tolist()
        ious, _ = _prompt(sam, embedding, _stack(parts), points=on_parts)
        found["part_best"] += ious.max(1).values.tolist()
        _, predicted = _prompt(
            sam, embedding, torch.zeros(8, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool), points=off_objects
        )
        found["background_predicted_iou"] += predicted.flatten().tolist()
        found["background_predicted_iou_max"] += predicted.max(1).values.tolist()
    return Figures(**{name: float(np.mean(values)) for name, values in found.items()})


def _stack(masks: Sequence[NDArray[np.bool_]]) -> Tensor:
    return torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.bool)


def _deepest_pixel(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return np.array([column, row], np.float32)


def _prompt(
    sam: Sam,
    embedding: Tensor,
    truth: Tensor,
    *,
    points: Sequence[NDArray[np.float32]] = (),
    boxes: Sequence[NDArray[np.float32]] = (),
    multimask: bool = True,
) -> tuple[Tensor, Tensor]:
    """True and predicted IoU ``[P, M]`` of the masks for one image's prompts against ``truth`` ``[P, H, W]``."""
    if not len(truth):
        return torch.zeros(0, 3), torch.zeros(0, 3)
    if points:
        coordinates = torch.from_numpy(np.stack(points)).unsqueeze(1)
        sparse, dense = sam.prompt_encoder(
            points=(coordinates, torch.ones(coordinates.shape[:2])), boxes=None, masks=None
        )
    else:
        sparse, dense = sam.prompt_encoder(points=None, boxes=torch.from_numpy(np.stack(boxes)), masks=None)
    logits, predicted = sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask)
    full = sam.postprocess_masks(logits, (IMAGE_SIZE, IMAGE_SIZE), (IMAGE_SIZE, IMAGE_SIZE))
    return _iou(full > sam.mask_threshold, truth.unsqueeze(1)), predicted


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_small_sam", description=__doc__)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--images", type=int, default=Recipe.images)
    parser.add_argument(
        "--out", type=Path, default=BUILTIN_WEIGHTS["sam"].path, help="safetensors file to write, or to evaluate"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint beside --out")
    parser.add_argument("--evaluate", action="store_true", help=f"only measure --out on {TEST_IMAGES} fresh images")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    keep_heap()
    if options.evaluate:
        sam = load_weights(options.out)
    else:
        recipe = Recipe(seed=options.seed, steps=options.steps, images=options.images)
        sam = train(recipe, options.out, workers=options.threads, resume=options.resume)
    for name, value in asdict(evaluate(sam, "sam-test", TEST_IMAGES)).items():
        logger.info("%-30s %.3f", name, value)


if __name__ == "__main__":
    main()
