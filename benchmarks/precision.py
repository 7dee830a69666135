"""Half precision against float32: how far boxes move, what is found, and how long it takes, on drawn images.

    make demo && python -m benchmarks.precision              SAM, clue network and detectors of a finished run of drawings
    python -m benchmarks.precision --half float16            what a GPU computes in, for agreement: a CPU is slow at it
    python -m benchmarks.precision --parts vit_b             ViT-B with random weights: its time, and nothing of boxes

Every comparison differs in one network alone: SAM gets the prompts of the exact clue network, the clue network's prompts go to
the exact SAM, and MIL detectors score the exact SAM's proposals. Images are of the test split, which no run trains on. A box
has moved by as much as its corner that moved most; a mask that one side alone finds empty counts as moved by more than 5 px.
Sets are matched one to one at an IoU of .9. Recall is that of the drawn objects, and AP50 VOC's 11-point one. Times on a CPU
are CPU time, which other processes hardly disturb.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

import weaksam.precision
import weaksam.sam.precision
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.stages.train_classifier.trained import TrainedClassifier
from pipelines.store.instances import current_instance
from pipelines.training.trained import Trained
from weaksam.boxes_np import iou_float64
from weaksam.clues.loading import load_clues
from weaksam.config import Weights
from weaksam.config.precision import Precision
from weaksam.datasets.shapes import CLASS_NAMES, Drawing, data_set_seed, draw
from weaksam.detectors.inference import detect, detect_alone
from weaksam.detectors.loading import load_detector, load_retrained
from weaksam.detectors.mil.samples import prepare_proposals
from weaksam.metrics.detection import VocAveragePrecision
from weaksam.metrics.proposal_recall import match_one_to_one
from weaksam.proposals.prompts import grid_prompts
from weaksam.proposals.proposer import Proposer
from weaksam.sam.encode import encode_image
from weaksam.sam.load import load_sam
from weaksam.sam.measure import measure_prompts
from weaksam.sam.models import VIT_B
from weaksam.sam.precision import halve
from weaksam.sam.prompt import Prompt
from weaksam.structures import MAP_KINDS, Detections, GroundTruth, Prompts, Proposals

PARTS = ("sam", "clues", "detectors", "vit_b")
PROMPTS = 64  # that ViT-B decodes for its time
BOTH: tuple[Precision, Precision] = ("exact", "fast")
MATCHED = 0.9  # IoU
RECALLED = (0.5, 0.75, 0.9)  # IoU
SHOWN = 0.05  # a detection scores as much to count as found; AP50 counts all
FLAGS = ("avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16")  # of a CPU, that matter here

T = TypeVar("T")


def main() -> None:
    """Compare part by part and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/demo", help="a finished run of drawings, whose networks are compared")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", default="", choices=("", "bfloat16", "float16"), help="in place of the device's own")
    parser.add_argument("--parts", nargs="+", default=PARTS[:3], choices=PARTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.half:
        for module in (weaksam.precision, weaksam.sam.precision):
            setattr(module, "half_type", partial(_chosen, getattr(torch, args.half)))  # noqa: B010
    print(f"{args.images} drawings, {args.device}, {_processor()}, {args.threads} threads, PyTorch {torch.__version__}")
    print(f"fast: encoder of SAM in bfloat16, all else in {weaksam.precision.half_type(device)}")
    if "vit_b" in args.parts:
        _print_vit_b(device)
    if not set(args.parts) - {"vit_b"}:
        return
    recipe, _ = load_recipe(f"{args.run}/recipe.yaml")
    drawings = [
        draw(data_set_seed(recipe.data.shapes.seed, "test", n), recipe.data.shapes.size) for n in range(args.images)
    ]
    compared = Compared(recipe, args.run, args.device, drawings)
    if "sam" in args.parts:
        compared.print_sam()
    if "clues" in args.parts:
        compared.print_clues()
    if "detectors" in args.parts:
        compared.print_detectors()


def _chosen(half: torch.dtype, _: torch.device) -> torch.dtype:
    return half


class Compared:
    """The networks of a run over drawings."""

    def __init__(self, recipe: Recipe, run: str, device: str, drawings: Sequence[Drawing]) -> None:
        self.recipe, self.run, self.device, self.drawings = recipe, run, device, drawings
        prompter = self._prompter("exact")
        self.prompts = [prompter.prompt(one.image, _labels(one)) for one in drawings]
        self.sams = {wanted: load_sam(replace(recipe.sam, precision=wanted), device) for wanted in BOTH}
        sam = self._proposer("exact")
        self.exact, self.exact_s = self._timed(lambda n, one: sam.segment(one.image, self.prompts[n]))

    def print_sam(self) -> None:
        """SAM: where the boxes of all masks lie, what is proposed, and what of the objects that covers."""
        sam = self._proposer("fast")
        fast, fast_s = self._timed(lambda n, one: sam.segment(one.image, self.prompts[n]))
        moved = np.concatenate([self._moved(n, one) for n, one in enumerate(self.drawings)])
        print(f"\nSAM {self.recipe.sam.name}, {moved.size:,} masks: identical boxes {(moved == 0).mean():.1%}, "
              f"moved by more than 1 px {(moved > 1).mean():.2%}, by more than 5 px {(moved > 5).mean():.2%}")  # fmt: skip
        self._print_proposals("SAM", fast, fast_s)

    def print_clues(self) -> None:
        """Clue network: which prompts it gives, and what the exact SAM makes of them."""
        both = {wanted: self._prompter(wanted) for wanted in BOTH}
        exact, exact_s = self._timed(lambda _, one: both["exact"].prompt(one.image, _labels(one)))
        fast, fast_s = self._timed(lambda _, one: both["fast"].prompt(one.image, _labels(one)))
        for source in MAP_KINDS:
            a, b = ([_points(prompts, source) for prompts in of_side] for of_side in (exact, fast))
            near = np.concatenate([_distance_to_nearest(*pair) for pair in zip(a, b, strict=True)])
            print(f"\nclues, {source}: {sum(map(len, a)):,} points exact, {sum(map(len, b)):,} fast; of the exact ones, "
                  f"there too {(near == 0).mean():.1%}, within 2 px {(near <= 2).mean():.1%}", end="")  # fmt: skip
        print(f"\nclue network: {exact_s * 1e3:.0f} ms an image exact, {fast_s * 1e3:.0f} ms fast")
        sam = self._proposer("exact")
        self._print_proposals(
            "clue network", self._timed(lambda n, one: sam.segment(one.image, fast[n]))[0], self.exact_s
        )

    def print_detectors(self) -> None:
        """Detectors: which detections both find, and their average precision."""
        mil = self.recipe.mil
        weak, _ = load_detector(Path(self._weights("train-mil").uri), mil, CLASS_NAMES)
        weak.to(self.device)
        of_image = [prepare_proposals(p.boxes_xyxy, p.size_hw, mil.min_box_side) for p in self.exact]
        test = self.recipe.detect
        self._print_detections(
            f"{mil.detector.name}, {mil.backbone}",
            lambda wanted: lambda n, one: detect(weak, one.image, of_image[n], replace(test, precision=wanted)),
        )
        retrain = self.recipe.retrain

        def alone(wanted: Precision) -> Callable[[int, Drawing], Detections]:
            config = replace(retrain, test=replace(retrain.test, precision=wanted))
            detector, _, _ = load_retrained(Path(self._weights("retrain").uri), config)
            detector.to(self.device)
            return lambda _, one: detect_alone(detector, one.image)

        self._print_detections(f"{retrain.detector.name}, {retrain.backbone}", alone)

    def _print_proposals(self, what: str, fast: list[Proposals], fast_s: float) -> None:
        matched = sum(_matched(a.boxes_xyxy, b.boxes_xyxy) for a, b in zip(self.exact, fast, strict=True))
        boxes = [sum(len(p.boxes_xyxy) for p in side) for side in (self.exact, fast)]
        print(f"proposals: {boxes[0]:,} exact, {boxes[1]:,} with a fast {what}; matched at IoU {MATCHED} "
              f"{2 * matched / sum(boxes):.1%} of both\n{'':8}{'R@.5':>8}{'R@.75':>8}{'R@.9':>8}{'ms/image':>10}")  # fmt: skip
        for name, side, seconds in (("exact", self.exact, self.exact_s), ("fast", fast, fast_s)):
            best = np.concatenate(
                [
                    match_one_to_one(iou_float64(o.boxes_xyxy, p.boxes_xyxy))
                    for o, p in zip(self.drawings, side, strict=True)
                ]
            )
            recall = "".join(f"{(best >= iou).mean():8.1%}" for iou in RECALLED)
            print(f"{name:8}{recall}{seconds * 1e3:10.0f}")

    def _print_detections(self, what: str, finder: Callable[[Precision], Callable[[int, Drawing], Detections]]) -> None:
        found: dict[str, list[Detections]] = {}
        lines = []
        for wanted in BOTH:
            found[wanted], seconds = self._timed(finder(wanted))
            measure = VocAveragePrecision(len(CLASS_NAMES))
            for n, (one, detections) in enumerate(zip(self.drawings, found[wanted], strict=True)):
                measure.add(n, detections, _truth(one))
            ap = 100 * measure.scores().mean_eleven_point
            ap75 = 100 * measure.scores(0.75).mean_eleven_point
            lines.append(f"{wanted:8}{ap:8.1f}{ap75:8.1f}{seconds * 1e3:10.0f}")
        shown = [[_shown_of_class(d) for d in found[wanted]] for wanted in BOTH]
        matched = sum(_matched(a[c], b[c]) for a, b in zip(*shown, strict=True) for c in range(len(CLASS_NAMES)))
        boxes = [sum(len(boxes) for of_image in side for boxes in of_image) for side in shown]
        print(f"\n{what}: {boxes[0]:,} detections of a score of {SHOWN} or more exact, {boxes[1]:,} fast; matched in their "
              f"class at IoU {MATCHED} {2 * matched / max(sum(boxes), 1):.1%} of both")  # fmt: skip
        print(f"{'':8}{'AP50':>8}{'AP75':>8}{'ms/image':>10}", *lines, sep="\n")

    def _moved(self, n: int, one: Drawing) -> NDArray[np.float64]:
        """By how many pixels the box of each mask of an image moved; 0 where both are empty."""
        grid = grid_prompts((one.image.shape[0], one.image.shape[1]), self.recipe.prompts.points_per_side)
        prompts = [Prompt(points_xy=points) for of_source in (grid, *self.prompts[n]) for points in of_source.points_xy]
        exact, fast = (measure_prompts(sam, encode_image(sam, one.image), prompts) for sam in self.sams.values())
        moved = (exact.boxes_xyxy - fast.boxes_xyxy).abs().amax(dim=1).double()
        moved[exact.empty != fast.empty] = torch.inf
        return moved.numpy()

    def _timed(self, compute: Callable[[int, Drawing], T]) -> tuple[list[T], float]:
        """Compute for every drawing, once warm; return the results and the seconds of one: of a CPU, those that it worked."""
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        compute(0, self.drawings[0])
        started = clock()
        results = [compute(n, one) for n, one in enumerate(self.drawings)]
        return results, (clock() - started) / len(results)

    def _proposer(self, wanted: Precision) -> Proposer:
        """SAM in a precision, for ``segment``."""
        return Proposer(None, self.sams[wanted], prompts=self.recipe.prompts, proposals=self.recipe.proposals)

    def _prompter(self, wanted: Precision) -> Proposer:
        """The run's clue network in a precision, for ``prompt``."""
        config = self.recipe.clues
        cam, weights = replace(config.cam, precision=wanted), self._weights("train-classifier")
        clues = load_clues(
            replace(config, cam=cam, weights=weights),
            class_names=CLASS_NAMES,
            kinds=[source for source in self.recipe.prompts.sources if source in MAP_KINDS],
            device=self.device,
        )
        return Proposer(clues, None, prompts=self.recipe.prompts, clues_config=config)

    def _weights(self, name: str) -> Weights:
        """What an instance of the run has trained."""
        instance = current_instance(self.run, name)
        if instance is None:
            raise SystemExit(f"{self.run}: expected a finished {name} in it; make one with: weaksam demo")
        return Weights((TrainedClassifier if name == "train-classifier" else Trained)(instance).weights_uri)


def _print_vit_b(device: torch.device) -> None:
    """Time of encoding one picture of 375 x 500 with ViT-B, and of decoding a prompt."""

    def clock() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    image = np.random.default_rng(0).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    points = np.random.default_rng(1).random((PROMPTS, 1, 2)).astype(np.float32) * np.array([500, 375], np.float32)
    prompts = [Prompt(points_xy=points_xy) for points_xy in points]
    print("\nViT-B, random weights")
    for wanted in BOTH:
        sam = VIT_B.build().eval().requires_grad_(False).to(device)
        sam = halve(sam) if wanted == "fast" else sam
        encoded = encode_image(sam, image)  # warms up, as the first of the prompts do
        measure_prompts(sam, encoded, prompts[:4])
        started = clock()
        encoded = encode_image(sam, image)
        encoded_at = clock()
        measure_prompts(sam, encoded, prompts)
        decode_s = (clock() - encoded_at) / PROMPTS
        print(f"{wanted:8}encode {encoded_at - started:.2f} s, decode and measure {decode_s * 1e3:.1f} ms a prompt")


def _labels(one: Drawing) -> list[int]:
    return sorted({int(c) for c in one.class_index})


def _truth(one: Drawing) -> GroundTruth:
    return GroundTruth(
        boxes_xyxy=one.boxes_xyxy,
        class_index=one.class_index,
        difficult=one.difficult,
        crowd=np.zeros_like(one.difficult),
    )


def _points(prompts: Sequence[Prompts], source: str) -> NDArray[np.float64]:
    """The points of all prompts of a source, ``[N, 2]``; a point in several prompts counts once."""
    all_xy = [points for of_source in prompts if of_source.source == source for points in of_source.points_xy]
    return np.unique(np.concatenate([np.empty((0, 2)), *all_xy]), axis=0)


def _distance_to_nearest(a_xy: NDArray[np.float64], b_xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each point of the first set to the second, in pixels along the axis where it is larger."""
    apart = np.abs(a_xy[:, None] - b_xy[None]).max(axis=2)
    nearest: NDArray[np.float64] = apart.min(axis=1, initial=np.inf)
    return nearest


def _matched(a_xyxy: NDArray[np.float32], b_xyxy: NDArray[np.float32]) -> int:
    """How many boxes of two sets pair up."""
    return int((match_one_to_one(iou_float64(a_xyxy, b_xyxy)) >= MATCHED).sum())


def _shown_of_class(found: Detections) -> list[NDArray[np.float32]]:
    """Boxes of a score that counts, class by class."""
    return [found.boxes_xyxy[(found.class_index == c) & (found.score >= SHOWN)] for c in range(len(CLASS_NAMES))]


def _processor() -> str:
    """The CPU's name, and which of ``FLAGS`` it has."""
    told = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
    told = {name.strip(): value.strip() for name, value in told.items()}
    has = told.get("flags", "").split()
    known = ", ".join(flag for flag in FLAGS if flag in has) or f"none of {', '.join(FLAGS)}"
    return f"{told.get('model name', 'unknown CPU')} ({known})"


if __name__ == "__main__":
    main()
