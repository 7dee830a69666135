"""The options of the stages: those of the method (``weaksam.config``), and what each instance reads.

An option of the type ``Input`` is the name of the instance that is read. Resources and report settings never enter an
instance's key: they change how fast a result comes and how it looks, not what it is. Zero stands for "choose for this machine".
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Literal

from pipelines.recipe.keys import Input, Inputs, reads, reads_several
from weaksam.config import (
    ClassifierConfig,
    DetectConfig,
    EverythingConfig,
    MilConfig,
    PredictMapsConfig,
    PromptTrainingConfig,
    PseudoLabelsConfig,
    RetrainConfig,
    RetrainedDetectConfig,
    SeedConfig,
    SegmentConfig,
    SegmenterConfig,
    require,
)
from weaksam.config.choices import Name
from weaksam.config.weights import NotInKey

_HOLD_PROPOSALS = ("propose", "import")  # verbs whose tables hold proposals
_HOLD_PSEUDO_LABELS = ("label", "true-boxes", "segment", "true-masks", "import-masks")
# All but true masks, of which there is nothing to measure.
_MEASURED_LABELS = tuple(verb for verb in _HOLD_PSEUDO_LABELS if verb != "true-masks")
_HOLD_LABEL_MAPS = ("seeds", "predict-maps")


def _require_none_below_0(section: ResourcesConfig | AnalyseConfig | ReportConfig) -> None:
    """Raise OptionError for a number of a section that is less than 0."""
    for option in fields(section):
        value = getattr(section, option.name)
        if isinstance(value, int | float):
            require(value >= 0, option.name, "0 or more", value)


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """How much of the machine or cluster a run takes; every 0 is chosen automatically."""

    # "auto": GPUs if the cluster has some or may start some, else an error; on one machine, whatever it has.
    device: Literal["auto", "gpu", "cpu"] = "auto"
    cpus: int = 0  # logical CPUs, of a local Ray or of a cluster; 0 = all that this process may use
    least_actors: int = 0  # that must find room before the work begins; 0 = one
    most_actors: int = 0  # that pools grow to as nodes join a cluster; 0 = all that find room
    wait_for_workers: float = 0.0  # seconds until a cluster without room is given up; 0 = as long as it takes
    prompt_actors: int = 0  # processes that run the clue network and find peaks, on CPUs
    segment_actors: int = 0  # processes that run SAM, or a detector: so many, whatever room there is
    threads_per_actor: int = 0  # torch threads of each of them, on CPU
    gpus_per_actor: float = 0.0  # share of a GPU each actor reserves: 1, 0.5, 0.33 or 0.25
    rows_per_task: int = 0  # images per Ray task, and per Parquet file: the unit that a kill loses
    # Data-parallel training processes: exactly so many, waited for; 0 = from the least to the most, as many as find room. Their
    # number divides the batch, which stays the same.
    train_workers: int = 0
    least_train_workers: int = 0  # 0 = one
    most_train_workers: int = 0  # 0 = one on each GPU that is there at the start; without GPUs one
    # Everything in the driver's own process, without Ray: for small data, trials, debuggers. On the CPU, or with
    # ``gpus_per_actor`` 1 on its GPU.
    here: bool = False
    # Of each training process; fewer than its share of the batch = accumulated gradients. 0 = as many as its GPU has room for;
    # on a CPU its share.
    images_per_pass: int = 0
    loader_workers: int = 0  # image loading processes of each training process
    price_per_hour: float = 0.0  # of the machine or cluster, in your currency, for the estimate that a preview makes
    cache_mib: int = 16_384  # training images that are fetched, or drawn, kept on each node's disk; 0 = none

    def __post_init__(self) -> None:
        shares = (0.0, 0.25, 0.33, 0.5, 1.0)  # other fractions can stay unschedulable for ever (ray#52133)
        require(self.gpus_per_actor in shares, "gpus_per_actor", f"one of {shares}", self.gpus_per_actor)
        if self.here:
            for name in ("prompt_actors", "segment_actors", "train_workers", "loader_workers", "gpus_per_actor"):
                got = getattr(self, name)
                require(got in (0, 1), name, "none beside here", got)
        if self.most_actors:
            expected = f"most_actors, {self.most_actors}, or fewer"
            require(self.least_actors <= self.most_actors, "least_actors", expected, self.least_actors)
        if self.train_workers:
            for name in ("least_train_workers", "most_train_workers"):
                require(not getattr(self, name), name, "none beside train_workers", getattr(self, name))
        if self.most_train_workers:
            expected = f"most_train_workers, {self.most_train_workers}, or fewer"
            got = self.least_train_workers
            require(got <= self.most_train_workers, "least_train_workers", expected, got)
        _require_none_below_0(self)


@dataclass(frozen=True, kw_only=True)
class ProposeConfig:
    """What the propose stage works on."""

    splits: tuple[str, ...] = ()  # empty = every indexed split
    method: Literal["sam", "selective-search"] = "sam"  # the second is the classical source
    # Whose maps are the clues, unless ``clues.weights`` are given.
    classifier: Input = reads("train-classifier", "train-classifier")


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Which file of another project's proposals is read."""

    file: str = ""  # path or address
    split: str = ""  # whose images; empty = all indexed ones, which lists in split order (mmdet) do not allow
    source: str = "imported"  # what the column ``source`` says of every box
    # Images that the file does not know: an error, or no boxes.
    missing: Literal["error", "empty"] = "error"


@dataclass(frozen=True, kw_only=True)
class ImportMasksConfig:
    """Which file of another project's pseudo labels with masks is read."""

    file: str = ""  # path or address of a file or folder
    # What the masks are owed to; "" = what the file says, which must then say it.
    supervision: Literal["", "image-labels", "boxes", "masks"] = ""


@dataclass(frozen=True, kw_only=True)
class TrueBoxesConfig:
    """How many of the true boxes are made wrong before they become pseudo labels."""

    noise: float = 0.0  # share of the boxes, see ``weaksam.pseudo_labels.noise``
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        require(0 <= self.noise <= 1, "true_boxes.noise", "a share in 0..1", self.noise)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """When a training of a run whose images have changed is done again."""

    # "changed": whenever an image to learn from was added, removed, replaced or labelled anew, and then all that is computed
    # with it. "asked": when --train-again says so; until then the finished one is used as it is.
    train_again: NotInKey[Literal["changed", "asked"]] = "changed"


@dataclass(frozen=True, kw_only=True)
class TrainClassifierConfig(TrainingConfig, ClassifierConfig):
    """How the clue network is trained, and when again."""


@dataclass(frozen=True, kw_only=True)
class TrainMilConfig(TrainingConfig, MilConfig):
    """A weakly-supervised detector, and what it learns from."""

    proposals: Inputs = reads_several(*_HOLD_PROPOSALS, default=("propose",))  # of several, all boxes


@dataclass(frozen=True, kw_only=True)
class DetectStageConfig(DetectConfig):
    """How a detector is run over images, and which."""

    model: Input = reads("train-mil", "train-mil", "retrain")  # a training of ``train-mil`` or ``retrain``
    # That a detector of ``train-mil`` scores; empty = those that it learnt from.
    proposals: Inputs = reads_several(*_HOLD_PROPOSALS)
    # One view of each image in the place of all scales and mirror images; "smaller": at .75 of each scale.
    view: Literal["all", "plain", "mirrored", "smaller"] = "all"
    within: Input = reads("", "detect", "")  # another instance, of whose splits alone; none of its results is read


@dataclass(frozen=True, kw_only=True)
class RetrainedDetectStageConfig(RetrainedDetectConfig, DetectStageConfig):
    """The same of a detector of ``retrain``, which finds its boxes alone."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(PseudoLabelsConfig):
    """How detections become pseudo labels, and which detections."""

    detections: Input = reads("detect.mil", "detect")


@dataclass(frozen=True, kw_only=True)
class SegmentStageConfig(SegmentConfig):
    """How pseudo boxes become masks, and which boxes."""

    labels: Input = reads("label", "label", "true-boxes")
    # Whose peaks inside a box, of the box's class, prompt SAM beside it; "" = the boxes alone.
    peaks: Input = reads("", "propose", "")

    @property
    def settled(self) -> SegmentStageConfig:
        """The same options, of which each that says nothing has its default."""
        return self if self.peaks else replace(self, max_points=SegmentConfig.max_points)


@dataclass(frozen=True, kw_only=True)
class SuperpixelsConfig(EverythingConfig):
    """SAM's automatic masks that superpixels are made of, and of which images.

    The defaults are for the built-in SAM, which is less sure of itself than ViT-H: in drawings of 128 pixels with three or four
    objects each it finds 7 masks with them, most objects among these, and 1 with the published ones. Those are in the preset
    ``fma-superpixels``.
    """

    splits: NotInKey[tuple[str, ...]] = ()  # empty = the one that labels are granted to, or all where they are to none
    points_per_side: int = 16
    min_predicted_iou: float = 0.5
    min_stability: float = 0.7
    whole_iou_bonus: float = 0.1
    wholes_first: bool = True


@dataclass(frozen=True, kw_only=True)
class RetrainStageConfig(TrainingConfig, RetrainConfig):
    """A detector trained on pseudo labels, and on which: of ``label``, ``segment``, ``true-boxes.NAME``,
    ``true-masks`` or ``import-masks.NAME``.
    """

    learn_from: Input = reads("label", *_HOLD_PSEUDO_LABELS)


@dataclass(frozen=True, kw_only=True)
class TrainPromptsConfig(TrainingConfig, PromptTrainingConfig):
    """A set of prompts, and the label maps that it is taught on by the objectives of seeds."""

    learn_from: Input = reads("", "seeds", "")  # "" with an objective of image labels

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = "an instance of seeds" if self.learns_seeds else "none, for labels alone are learnt"
        fits = bool(self.learn_from) == self.learns_seeds
        require(fits, "learn_from", f"{needed}, with objective {self.objective}", self.learn_from)


@dataclass(frozen=True, kw_only=True)
class SeedStageConfig(SeedConfig):
    """How label maps are made, and of whose maps and which superpixels."""

    model: Input = reads("train-prompts", "train-prompts", "train-classifier")  # whose maps of an image's classes
    superpixels: Input = reads("superpixels", "superpixels", "")  # "" = none: each pixel takes its own class


@dataclass(frozen=True, kw_only=True)
class TrainSegmenterConfig(TrainingConfig, SegmenterConfig):
    """A segmenter trained on label maps, and on which."""

    learn_from: Input = reads("seeds", *_HOLD_LABEL_MAPS)


@dataclass(frozen=True, kw_only=True)
class PredictMapsStageConfig(PredictMapsConfig):
    """How a segmenter is run over images, and which."""

    model: Input = reads("train-segmenter", "train-segmenter")
    # That take the class which is most probable in them, all in all (FMA method 7); "" = none: each pixel has its own class.
    superpixels: Input = reads("", "superpixels", "")

    @property
    def settled(self) -> PredictMapsStageConfig:
        """The same options, of which each that says nothing has its default."""
        return self if self.superpixels else replace(self, max_inside=PredictMapsConfig.max_inside)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured, and how proposals and detections are (method 9.1-9.4)."""

    of: Input = reads("propose", *_HOLD_PROPOSALS, "detect", *_MEASURED_LABELS, *_HOLD_LABEL_MAPS, "train-classifier")
    # Beside detections: one box of them by chance; empty = those that the detector scored, else the recipe's, if it makes any.
    proposals: Inputs = reads_several(*_HOLD_PROPOSALS)
    # Detections of single views. With some, no true box is read: how far they agree with ``of`` and ``teacher`` is measured.
    views: Inputs = reads_several("detect")
    teacher: Input = reads("", "detect", "")  # detections of the detector whose findings ``of`` learnt from
    iou_thresholds: tuple[float, ...] = (0.5, 0.75, 0.9)  # of the table; curves run from .50 to .95
    include_difficult: bool = True  # objects marked difficult count as objects to propose for (published code)
    # "devkit": an IoU must exceed .5; "chainer", as published MIST measures: .5 is enough, boxes a pixel larger
    voc_style: Literal["devkit", "chainer"] = "devkit"
    # Of the 11-point precision. "published": a recall of exactly .3, .6 or .7 misses its level by rounding, as in the codes
    # that published figures come from; "exact": it reaches it, which reads up to .055 higher for 10, 20, ... objects.
    voc_levels: Literal["published", "exact"] = "published"
    # First images in hash order on which GrabCut stands beside pseudo masks, or the best ones of a detector; some .6 s a box on
    # photographs; 0 = none.
    grabcut_images: int = 20

    def __post_init__(self) -> None:
        ok = bool(self.iou_thresholds) and all(0 < t <= 1 for t in self.iou_thresholds)
        require(ok, "iou_thresholds", "numbers in (0, 1]", self.iou_thresholds)
        require(self.grabcut_images >= 0, "grabcut_images", "0 or more", self.grabcut_images)


@dataclass(frozen=True, kw_only=True)
class AnalyseConfig:
    """The prompt ablation of Table 4 with its controls, the similarity of proposals of Fig. 6, the noise of Fig. 3 and 7."""

    question: Annotated[str, Name("pipelines.analyse:QUESTIONS")] = "prompts"
    proposals: Input = reads("propose", "propose")  # that "prompts" and "similarity" are about
    detector: Input = reads("train-mil", "train-mil")  # whose features of the proposals "similarity" compares
    retrained: Input = reads("retrain", "retrain")  # whose losses of its pseudo labels "noise" looks at
    split: str = "auto"  # whose images; "auto" = the training split
    max_images: int = 150  # first images in hash order that the prompts are compared on; 0 = all
    random_seeds: tuple[int, ...] = (0, 1, 2)  # of the uniform random control
    similarity_images: int = 20  # first images in hash order whose proposals are compared; 0 = all
    noise_images: int = 500  # first training images in hash order whose regions' losses are measured; 0 = all

    def __post_init__(self) -> None:
        _require_none_below_0(self)
        distinct = 0 < len(self.random_seeds) == len(set(self.random_seeds))
        require(distinct, "random_seeds", "one seed or more, each once", self.random_seeds)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report shows."""

    title: str = ""  # empty = the recipe's name
    gallery_images: int = 12  # pictures with heat maps, prompts and proposals
    gallery_side: int = 320  # pixels, longest side of a gallery picture
    detection_score: float = 0.3  # a detection scores at least this to be drawn; higher is stricter
    failures: int = 6  # worst ones of a detector, shown per split

    def __post_init__(self) -> None:
        require(0 <= self.detection_score <= 1, "detection_score", "0..1", self.detection_score)
        require(self.gallery_side >= 1, "gallery_side", "1 or more", self.gallery_side)
        _require_none_below_0(self)
