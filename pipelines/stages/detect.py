"""The detect stage: a trained detector over images, on Ray Data.

    index, proposals ─► fetch and validate (CPU tasks) ─► DetectActor pool ─► Parquet

A detector of ``train-mil`` scores proposals: an image that ``propose`` dropped has none and is not planned. One of ``retrain``
finds its boxes alone. With ``view`` it is shown one view of each image (``VIEWS``). Resumable like ``propose``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.dataflow.passes import work_off
from pipelines.dataflow.pools import Pools
from pipelines.dataflow.rows import fetch, planned_images, use_cpu, work_batch
from pipelines.engine.stage import ImagesRead, Job, Stage
from pipelines.products.detections import DetectionFacts, DetectionTable
from pipelines.products.index import Index
from pipelines.products.proposal_boxes import boxes_by_image
from pipelines.products.proposals import proposal_tables
from pipelines.recipe.config import ResourcesConfig
from pipelines.recipe.keys import INDEX, NOTHING, Input, Inputs
from pipelines.recipe.model import Recipe, verb_of
from pipelines.store.instances import Instance
from pipelines.store.planned import CONTENT
from pipelines.store.schemas import DETECTIONS, detections_to_row, with_class_names
from pipelines.store.tables import Rows
from pipelines.training.trained import Trained, weights_of_job
from weaksam.config import (
    DetectConfig,
    MilConfig,
    RetrainConfig,
    RetrainedDetectConfig,
    RetrainedDetectorConfig,
    require,
)
from weaksam.config.weights import NotInKey, Weights
from weaksam.errors import DataError
from weaksam.masks_np import decode_rle, encode_rle
from weaksam.structures import IMAGE_LABELS, Detections


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """What a detector is shown in the place of all scales and mirror images that test-time augmentation has."""

    mirror: bool = False
    scale: float = 1.0  # of each of its scales


VIEWS = {"plain": ImageView(), "mirrored": ImageView(mirror=True), "smaller": ImageView(scale=0.75)}


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """Which detector is run over which images, and how."""

    index: Input = INDEX
    model: Input  # "" where the detector's weights are given
    proposals: Inputs  # that a detector of ``train-mil`` scores; none for one that finds its boxes alone
    weights: Weights  # of a given detector
    architecture: MilArchitecture | RetrainedArchitecture
    test: DetectConfig
    mirror: bool
    detector: NotInKey[MilConfig | RetrainConfig]  # how it was trained; see ``architecture``
    resources: NotInKey[ResourcesConfig]


@dataclass(frozen=True, kw_only=True)
class MilArchitecture:
    """What of a weakly-supervised detector's options decides what it finds with given weights."""

    detector: str
    backbone: str
    proposal_sources: tuple[str, ...]
    min_box_side: int


@dataclass(frozen=True, kw_only=True)
class RetrainedArchitecture:
    """The same of a retrained detector."""

    backbone: str
    detector: RetrainedDetectorConfig


class DetectStage(Stage[DetectOptions]):
    """See the module."""

    verb = "detect"
    help = (
        "Run a trained detector over images.\n\n"
        "`--label mil`: that of `train-mil`, on their proposals. `--label final`: that of `retrain`, alone."
    )
    product = DetectionTable
    loads_models = True

    def options(self, recipe: Recipe, name: str) -> DetectOptions:
        """Look up how the detector was trained, and settle how it is run."""
        detector = detector_of(recipe)
        test, mirror = settings_of(recipe, name)
        if isinstance(test, RetrainedDetectConfig) and isinstance(detector, RetrainConfig):
            detector = replace(detector, test=test)
        return DetectOptions(
            model=NOTHING if detector.weights else recipe.detect.model,
            proposals=scored_proposals(recipe) if isinstance(detector, MilConfig) else (),
            weights=detector.weights,
            architecture=_architecture(detector),
            test=test,
            mirror=mirror,
            detector=detector,
            resources=recipe.resources,
        )

    def images(self, options: DetectOptions) -> ImagesRead:
        """Return those of the chosen splits; a detector sees no labels."""
        return ImagesRead(columns=(CONTENT,), splits=options.test.splits)

    def makes_rows(self, options: DetectOptions) -> bool:  # noqa: ARG002
        """True: no image depends on another."""
        return True

    def run(self, job: Job[DetectOptions]) -> DetectionFacts:
        """Detect in every image of the chosen splits, of those that have a row of proposals where it takes any."""
        options, index = job.options, job.input(job.options.index, Index)
        proposals = proposal_tables(job, options.proposals)
        images = planned_images(job.instance.planned_rows(), index.read())
        if proposals:
            proposed = [image_id for table in proposals for image_id in table.ids()]
            images = images.filter(pc.is_in(images["image_id"], pa.array(proposed, pa.string())))
        if not images.num_rows:
            has = " has proposals" if proposals else ""
            raise DataError(
                f"{job.instance.name}.splits: no image of {', '.join(options.test.splits) or 'any split'}{has}"
            )
        weights = weights_of_job(job, options.model, options.weights)
        class_names = index.class_names or _class_names_of(weights)
        schema = with_class_names(DETECTIONS, class_names)

        def operators(dataset: Any, pools: Pools) -> Any:
            spec = DetectSpec(
                instance=job.instance,
                weights=weights,
                proposals=proposals,
                config=options.detector,
                test=options.test,
                mirror=options.mirror,
                class_names=class_names,
                threads=pools.sizes.threads,
                device=pools.sizes.device,
            )
            dataset = pools.tasks(dataset, fetch, longest_side=options.test.max_side)
            return pools.actors(dataset, DetectActor, pools.sizes.segment_actors, spec=spec, schema=schema)

        facts = work_off(job, images, schema, options.resources, operators)
        return DetectionFacts(**vars(facts), supervision=_supervision(job))


def detector_of(recipe: Recipe) -> MilConfig | RetrainConfig:
    """Return the settings of the detector that an instance of ``detect`` runs; ``recipe`` is what the instance sees.

    Raises:
        ConfigError: it is to run what trains no detector.
    """
    model = recipe.detect.model
    require(verb_of(model) in ("train-mil", "retrain"), "detect.model", "an instance of train-mil or retrain", model)
    return recipe.of(model).mil if verb_of(model) == "train-mil" else recipe.of(model).retrain


def scored_proposals(recipe: Recipe) -> Inputs:
    """Return the instances whose proposals a detector of ``train-mil`` scores; ``recipe`` is what the instance sees."""
    return recipe.detect.proposals or recipe.of(recipe.detect.model).mil.proposals


def settings_of(recipe: Recipe, name: str) -> tuple[DetectConfig, bool]:
    """Return how the detector of an instance is run, and whether it is shown mirror images only.

    Raises:
        ConfigError: it is kept within the splits of another instance, and there is no split that both have.
    """
    config = recipe.of(name).detect
    splits = config.splits
    others = recipe.of(config.within).detect.splits if config.within else ()
    if others:
        splits = tuple(split for split in others if split in splits or not splits)
        wanted = f"some of {', '.join(others)}, those of {config.within}"
        require(bool(splits), f"{name}.splits", wanted, config.splits)
    view = VIEWS.get(config.view)
    if view is None:
        return replace(config, splits=splits), False
    scales = tuple(round(view.scale * scale) for scale in config.scales)
    settled: Any = {"view": "all", "flip": False, "scales": scales}  # what the view means, however it was asked for
    return replace(config, splits=splits, **settled), view.mirror


def _architecture(detector: MilConfig | RetrainConfig) -> MilArchitecture | RetrainedArchitecture:
    if isinstance(detector, RetrainConfig):
        return RetrainedArchitecture(backbone=detector.backbone, detector=detector.settled.detector)
    return mil_architecture(detector)


def mil_architecture(detector: MilConfig) -> MilArchitecture:
    """Return what of a detector's options counts once it is trained."""
    return MilArchitecture(
        detector=detector.detector.name,
        backbone=detector.backbone,
        proposal_sources=detector.proposal_sources,
        min_box_side=detector.min_box_side,
    )


@dataclass(frozen=True, kw_only=True)
class DetectSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    weights: Weights  # of the detector
    proposals: tuple[Rows, ...]  # that a weakly-supervised detector scores
    config: MilConfig | RetrainConfig
    test: DetectConfig
    mirror: bool  # show it mirror images; what it finds is told of the image itself
    class_names: tuple[str, ...]  # of the data, if it has any; the detector's must be the same
    threads: int
    device: str  # "cpu" or "cuda"


class DetectActor:
    """Holds a detector; turns images into detections. Columns FETCHED -> DETECTIONS, bad rows set aside."""

    def __init__(self, spec: DetectSpec, schema: pa.Schema = DETECTIONS) -> None:
        use_cpu(spec.threads, spec.device)
        self._spec = spec
        self._schema = schema  # with the class names in its metadata
        self._find, class_names = _weak(spec) if spec.proposals else _retrained(spec)
        if class_names != spec.class_names:
            raise DataError(
                f"{spec.weights}: expected a detector of the classes {', '.join(spec.class_names)}, got one of "
                f"{', '.join(class_names)}"
            )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Detect in each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        ahead = self._spec.device == "cuda"
        return work_batch(batch, self._spec.instance, self._schema, self._detect, ahead=ahead)

    def _detect(self, row: dict[str, Any], *, ready: Callable[[], NDArray[np.uint8]]) -> dict[str, Any]:
        image = ready()
        size_hw = (image.shape[0], image.shape[1])
        return detections_to_row(row["image_id"], row["input"], size_hw, self._find(image, row["image_id"]))


Find = Callable[[NDArray[np.uint8], str], Detections]  # in an image, and its id


def _weak(spec: DetectSpec) -> tuple[Find, tuple[str, ...]]:
    """Return how a weakly-supervised detector finds objects among an image's proposals, and its classes."""
    from weaksam.detectors.inference import detect
    from weaksam.detectors.loading import load_detector
    from weaksam.detectors.mil.samples import mirrored, prepare_proposals

    config = spec.config
    assert isinstance(config, MilConfig)
    detector, class_names = load_detector(spec.weights.fetch().path, config, spec.class_names)
    detector.to(spec.device).eval()
    proposed = boxes_by_image(spec.proposals, config.proposal_sources)

    def find(image: NDArray[np.uint8], image_id: str) -> Detections:
        boxes = prepare_proposals(proposed[image_id], (image.shape[0], image.shape[1]), config.min_box_side)
        if spec.mirror:
            return _mirrored_back(detect(detector, *mirrored(image, boxes), spec.test), image)
        return detect(detector, image, boxes, spec.test)

    return find, class_names


def _retrained(spec: DetectSpec) -> tuple[Find, tuple[str, ...]]:
    """Return how a retrained detector finds objects, and its classes."""
    from weaksam.detectors.inference import detect_alone
    from weaksam.detectors.loading import load_retrained

    assert isinstance(spec.config, RetrainConfig)
    detector, class_names, _ = load_retrained(spec.weights.fetch().path, spec.config)
    detector.to(spec.device).eval()

    def find(image: NDArray[np.uint8], _: str) -> Detections:
        if spec.mirror:
            return _mirrored_back(detect_alone(detector, image[:, ::-1]), image)
        return detect_alone(detector, image)

    return find, class_names


def _mirrored_back(found: Detections, image: NDArray[np.uint8]) -> Detections:
    """Return what was found in the mirror image of ``image`` as boxes and masks of ``image``."""
    from weaksam.detectors.mil.samples import mirrored

    masks_rle = found.mask_rle and [encode_rle(decode_rle(rle)[:, ::-1]) for rle in found.mask_rle]
    return replace(found, boxes_xyxy=mirrored(image, found.boxes_xyxy)[1], mask_rle=masks_rle)


def _class_names_of(weights: Weights) -> tuple[str, ...]:
    """Return the classes of a detector, for data that has none of its own; raise DataError if its file names none."""
    from weaksam.detectors.loading import class_names_in

    names = class_names_in(weights.fetch().path)
    if not names:
        raise DataError(
            f"{weights}: a published detector, which names no classes, and the data has none: give data with classes"
        )
    return names


def _supervision(job: Job[DetectOptions]) -> str:
    """Return the supervision of the detector."""
    options = job.options
    if isinstance(options.detector, MilConfig):
        return IMAGE_LABELS
    if options.model:
        return job.input(options.model, Trained).facts.supervision
    from weaksam.detectors.loading import load_retrained

    return load_retrained(options.weights.fetch().path, options.detector)[2]


STAGE = DetectStage()
