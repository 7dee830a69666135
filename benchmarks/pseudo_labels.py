"""Pseudo ground truth of many images at once, and by a loop over images, classes and boxes.

    python -m benchmarks.pseudo_labels            10,000 images of 100 detections; about a minute on two cores

Three ways to the same choice: ours, ours called image by image, and plain Python as a first implementation would have it, which
the tests use as their reference. The slow ways get fewer images (``--slow-images``); the figures are per 1,000 images, medians
of ``--repeats`` rounds in alternating order. ``--labelled`` says which share of the detections is of an image's labels: of
detectors that learnt from image labels it is small, and the work is in these.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weaksam.config import PseudoLabelsConfig
from weaksam.pseudo_labels.boxes import REASONS, select

NUM_CLASSES = 20
SIDE = 500  # pixels of an image


class Batch(NamedTuple):
    """The arguments of ``select``, and how many detections an image has."""

    boxes_xyxy: NDArray[np.float32]
    class_index: NDArray[np.int64]
    score: NDArray[np.float32]
    image_index: NDArray[np.int64]
    labels: NDArray[np.bool_]
    each: int

    def images(self, begin: int, end: int) -> Batch:
        """Return some of the images, counted from 0."""
        rows = slice(begin * self.each, end * self.each)
        return Batch(
            self.boxes_xyxy[rows],
            self.class_index[rows],
            self.score[rows],
            self.image_index[rows] - begin,
            self.labels[begin:end],
            self.each,
        )


def main() -> None:
    """Time every way and print the table; fails if two of them disagree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--slow-images", type=int, default=500, help="images for the two ways that go one by one")
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--labelled", type=float, nargs="+", default=(0.1, 0.5, 1.0), metavar="SHARE")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    print(f"{args.images:,} images of {args.detections} detections, {NUM_CLASSES} classes, median of {args.repeats}")
    print(f"{'of a label':>10}  {'way':42}{'images':>8}{'s/1,000 images':>16}{'slower than ours':>18}")
    for share in args.labelled:
        batch = random_batch(args.images, args.detections, share)
        ways: list[tuple[str, Callable[[Batch], NDArray[np.int8] | list[str]], int]] = [
            ("weaksam.pseudo_labels.boxes, all at once", _ours, args.images),
            ("weaksam.pseudo_labels.boxes, image by image", _image_by_image, args.slow_images),
            ("loop over images, classes and boxes", _plain, args.slow_images),
        ]
        expected = np.array(REASONS)[_ours(batch)]
        seconds: dict[str, list[float]] = {name: [] for name, _, _ in ways}
        for repeat in range(args.repeats):
            for name, way, count in ways if repeat % 2 == 0 else reversed(ways):
                part = batch.images(0, count)
                started = time.perf_counter()
                found = way(part)
                seconds[name].append(1e3 * (time.perf_counter() - started) / count)
                reasons = np.array(REASONS)[found] if isinstance(found, np.ndarray) else np.array(found)
                if not np.array_equal(reasons, expected[: len(reasons)]):
                    raise SystemExit(f"{name} chooses other boxes")
        ours_s = statistics.median(seconds[ways[0][0]])
        for name, _, count in ways:
            median_s = statistics.median(seconds[name])
            print(f"{share:10.0%}  {name:42}{count:8,}{median_s:16.4f}{median_s / ours_s:17.1f}x")


def random_batch(images: int, each: int, labelled: float, seed: int = 0) -> Batch:
    """Detections around one to three objects an image, with scores that fall off as a detector's do."""
    generator = np.random.default_rng(seed)
    number = images * each
    image_index = np.repeat(np.arange(images), each)
    classes = generator.permuted(np.tile(np.arange(NUM_CLASSES), (images, 1)), axis=1)[:, :3]
    present = 1 + generator.integers(3, size=images)
    labels = np.zeros((images, NUM_CLASSES), np.bool_)
    for n in range(3):
        labels[np.flatnonzero(present > n), classes[present > n, n]] = True
    of_label = classes[image_index, generator.integers(3, size=number) % present[image_index]]
    centres = generator.uniform(0, SIDE, (images, NUM_CLASSES, 2))
    sides = generator.uniform(40, 300, (images, NUM_CLASSES, 2))
    class_index = np.where(generator.random(number) < labelled, of_label, generator.integers(NUM_CLASSES, size=number))
    middle = centres[image_index, class_index] + generator.normal(0, 30, (number, 2))
    half = sides[image_index, class_index] * generator.uniform(0.1, 0.6, (number, 2))
    boxes_xyxy = np.concatenate([middle - half, middle + half], axis=1).clip(0, SIDE).astype(np.float32)
    score = generator.beta(0.3, 2.0, number).astype(np.float32)
    return Batch(boxes_xyxy, class_index, score, image_index, labels, each)


def plain_reasons(
    boxes_xyxy: Sequence[Sequence[float]],
    class_index: Sequence[int],
    score: Sequence[float],
    labels: Sequence[int],
    config: PseudoLabelsConfig,
) -> list[str]:
    """Say what becomes of each detection of one image, one of ``weaksam.pseudo_labels.boxes.REASONS``, box by box."""
    reasons = ["not an image label"] * len(score)
    for label in labels:
        mine = [n for n in range(len(score)) if class_index[n] == label]
        if not mine:
            continue
        best = max(mine, key=lambda n: (score[n], -n))
        if config.mode == "top1":
            ranked = sorted(mine, key=lambda n: (-score[n], n))
            for rank, n in enumerate(ranked):
                reasons[n] = "low score" if score[n] <= 0 else "kept" if rank < config.top_k else "not the best"
            continue
        highest, lowest = score[best], min(score[n] for n in mine)
        high = []
        for n in mine:
            if highest == lowest:
                normalised = 1.0
            elif config.normalise == "range":
                normalised = score[n] / (highest - lowest + 1e-8)
            else:
                normalised = (score[n] - lowest) / (highest - lowest)
            if normalised > float(config.tau_s) or n == best:
                high.append(n)
            else:
                reasons[n] = "low score"
        for n in high:
            reasons[n] = "kept"
            for other in high:
                if other == n:
                    continue
                size, other_size = (_area(boxes_xyxy[k]) for k in (n, other))
                larger = (other_size, score[other], -other) > (size, score[n], -n)
                share = _shared(boxes_xyxy[n], boxes_xyxy[other]) / size if size > 0 else 1.0
                if share >= float(config.tau_o) and (larger or config.covered_by == "any"):
                    reasons[n] = "covered"
    return reasons


def _ours(batch: Batch) -> NDArray[np.int8]:
    return select(*batch[:5], PseudoLabelsConfig()).reason


def _image_by_image(batch: Batch) -> NDArray[np.int8]:
    return np.concatenate([_ours(batch.images(n, n + 1)) for n in range(len(batch.labels))])


def _plain(batch: Batch) -> list[str]:
    found: list[str] = []
    for n in range(len(batch.labels)):
        one = batch.images(n, n + 1)
        labels = np.flatnonzero(one.labels[0]).tolist()
        columns = one.boxes_xyxy.tolist(), one.class_index.tolist(), one.score.tolist()
        found += plain_reasons(*columns, labels, PseudoLabelsConfig())
    return found


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def _shared(a: Sequence[float], b: Sequence[float]) -> float:
    return _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


if __name__ == "__main__":
    main()
