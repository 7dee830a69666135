"""Train the built-in stem: ``python -m tools.train_stem --seed 0`` writes ``weights/small_stem.safetensors``.

The stem learns to tell which shape classes are in a drawing, from image-level labels alone; no box or mask is looked at.
Every image is drawn afresh from the seeds reserved for this purpose, which no data set of any recipe draws. ``--evaluate``
measures the file instead: mAP, and how often the peak of a present class's activation map falls on an object of it.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from weaksam.datasets.shapes import CLASS_NAMES, Drawing, draw, reserved_seed
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.metrics.classification import classification_scores
from weaksam.networks.small_stem import SmallCnnClassifier, load_builtin_classifier
from weaksam.random import derive_seed
from weaksam.transforms import normalise

logger = logging.getLogger(__name__)

DIM = 128  # channels that the stem hands on; the width of the transformer put on top
SIZE = 128  # pixels
BATCH_SIZE = 32
PEAK_LR = 2e-3
WEIGHT_DECAY = 0.02
WARMUP = 0.1  # share of the steps
TEST_IMAGES = 500
SEED_SPACING = 1_000_000  # drawings between the first ones of two training seeds


class Drawings(Dataset[tuple[NDArray[np.uint8], NDArray[np.float32]]]):
    """Drawings number ``first`` to ``first + count`` of the training seeds, each with its multi-hot label ``[C]``."""

    def __init__(self, first: int, count: int) -> None:
        self._first = first
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        drawing = draw(reserved_seed("clues-train", self._first + index), SIZE)
        return drawing.image, _labels(drawing)


def train(seed: int, images: int) -> SmallCnnClassifier:
    """Train on ``images`` drawings, each seen once, under one cosine of the learning rate."""
    torch.set_num_threads(
        1
    )  # the loader's process draws on the other core, and a machine repeats its result bit for bit
    torch.manual_seed(derive_seed(seed, "small stem"))
    model = SmallCnnClassifier(DIM, len(CLASS_NAMES)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    loader = DataLoader(Drawings(seed * SEED_SPACING, images), BATCH_SIZE, num_workers=1, drop_last=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=len(loader), pct_start=WARMUP, cycle_momentum=False
    )
    losses: list[float] = []
    began = time.monotonic()
    model.train()
    for step, (pixels, targets) in enumerate(loader, start=1):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = model.training_loss(_to_input(pixels), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 0 or step == len(loader):
            speed = step * BATCH_SIZE / (time.monotonic() - began)
            logger.info("step %d of %d: loss %.4f, %.0f img/s", step, len(loader), np.mean(losses[-100:]), speed)
    return model.eval()


def save(model: SmallCnnClassifier, path: Path, seed: int, images: int) -> None:
    """Write the classifier: convolutions in float16, statistics and scales of the normalisation as they are."""
    state = {name: (v.half() if v.ndim == 4 else v).contiguous() for name, v in model.state_dict().items()}
    metadata = {
        "architecture": "SmallCnnClassifier",
        "dim": str(DIM),
        "class_names": ",".join(CLASS_NAMES),
        "trained_on": f"{images} drawings of {SIZE} px from the reserved seeds, --seed {seed}",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata)


@torch.inference_mode()
def evaluate(model: SmallCnnClassifier, images: int = TEST_IMAGES) -> dict[str, float]:
    """Measure on test drawings.

    Returns:
        ``map``: mean average precision over the classes; ``pointing``: share of (image, present class) pairs whose highest
        score lies on a visible pixel of an object of the class; ``chance``: the share expected of a random pixel.
    """
    logits, labels, hits, areas = [], [], [], []
    for drawing in _test_drawings(images):
        features = model.stem(_to_input(torch.from_numpy(drawing.image)[None]))
        scores = model.head(features)
        logits.append((scores.flatten(2).logsumexp(2))[0].numpy())
        present = np.flatnonzero(_labels(drawing))
        labels.append(present.tolist())
        full = F.interpolate(scores, size=drawing.image.shape[:2], mode="bilinear", align_corners=False)[0]
        for c in present:
            on_object = np.isin(drawing.instance_map, 1 + np.flatnonzero(drawing.class_index == c))
            hits.append(bool(on_object.flat[int(full[c].argmax())]))
            areas.append(float(on_object.mean()))
    mean_ap = classification_scores(np.stack(logits), labels).mean_ap
    return {"map": mean_ap, "pointing": float(np.mean(hits)), "chance": float(np.mean(areas))}


def main() -> None:
    """Train and write the file, or measure it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of weights and drawings, 0..99")
    parser.add_argument("--images", type=int, default=24_000, help="drawings to train on, each seen once")
    parser.add_argument("--output", type=Path, default=BUILTIN_WEIGHTS["stem"].path)
    parser.add_argument("--evaluate", action="store_true", help="measure the file at --output instead of training")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not options.evaluate:
        save(train(options.seed, options.images), options.output, options.seed, options.images)
    figures = evaluate(load_builtin_classifier(options.output))
    for name, value in figures.items():
        logger.info("%-8s %.3f", name, value)


def _test_drawings(images: int) -> Iterator[Drawing]:
    for index in range(images):
        yield draw(reserved_seed("clues-test", index), SIZE)


def _labels(drawing: Drawing) -> NDArray[np.float32]:
    labels = np.zeros(len(CLASS_NAMES), np.float32)
    labels[drawing.class_index[~drawing.difficult]] = 1
    return labels


def _to_input(pixels: Tensor) -> Tensor:
    """uint8 ``[B, H, W, 3]`` -> normalised float32 ``[B, 3, H, W]``, laid out for convolutions on CPU."""
    return normalise(pixels.permute(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
