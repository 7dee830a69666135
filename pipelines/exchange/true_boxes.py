"""The true-boxes stage: the true boxes of the labelled split as pseudo labels, with noise if wanted.

This is the one way in which true boxes reach a trainer: as an instance ``true-boxes.<name>`` that ``retrain.learn_from`` can
name. Every row and the manifest say ``supervision: boxes``, and whatever is made of them repeats it. The column ``noise`` says
what was done to each box, so that a loss drop can be measured by what it drops; boxes that noise removed are kept as rejected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.dataflow.rows import planned_images
from pipelines.engine.stage import Content, ImagesRead, Job, Stage
from pipelines.engine.voice import SILENT, Voice
from pipelines.exchange.imports import ANY_DROPPED, require_folder_name
from pipelines.exchange.true_objects import granted_truth, learnable_objects
from pipelines.products.index import Index
from pipelines.products.pseudo_labels import PseudoLabelFacts, PseudoLabelTable
from pipelines.recipe.keys import INDEX, Input
from pipelines.recipe.model import Recipe, load_recipe
from pipelines.runner import Run
from pipelines.stages.index import indexed_data
from pipelines.store.instances import finished_instance
from pipelines.store.planned import CONTENT
from pipelines.store.proof import prove
from pipelines.store.schemas import PSEUDO_LABELS, pseudo_labels_to_row, with_class_names
from weaksam.config import DataConfig
from weaksam.config.weights import NotInKey
from weaksam.datasets.ground_truth import StatedSize, digest_of
from weaksam.errors import ConfigError
from weaksam.io.files import join, open_fs
from weaksam.pseudo_labels.noise import CLEAN, MISSING, NOISE_KINDS, NoisyBoxes, TrueBoxes, add_noise
from weaksam.structures import BOXES, PseudoGroundTruth

_ROWS_PER_PART = 4096  # images


@dataclass(frozen=True, kw_only=True)
class TrueBoxesFacts(PseudoLabelFacts):
    """What is said of true boxes that became pseudo labels."""

    left_out: dict[str, int] = field(default_factory=dict)  # reason -> boxes
    noise: dict[str, float] = field(default_factory=dict)  # ``share`` and ``seed``, and kind -> boxes


@dataclass(frozen=True, kw_only=True)
class TrueBoxesOptions:
    """Which boxes become pseudo labels, and how many of them are made wrong."""

    index: Input = INDEX
    noise: float  # share, see ``weaksam.pseudo_labels.noise``
    seed: int
    include_difficult: bool
    stated_size: StatedSize
    data: NotInKey[DataConfig]


class TrueBoxesStage(Stage[TrueBoxesOptions]):
    """See the module."""

    verb = "true-boxes"
    help = (
        "Make pseudo labels of the true boxes of the labelled split, with noise if wanted: what do pseudo labels cost?\n\n"
        "A detector that is retrained on them (retrain.learn_from: true-boxes.NAME) is not weakly supervised any more, and "
        "everything computed from it says `supervision: boxes`."
    )
    product = PseudoLabelTable
    replaces_when_finished = True

    def options(self, recipe: Recipe, name: str) -> TrueBoxesOptions:
        """Take the section of true boxes."""
        require_folder_name(name)
        return TrueBoxesOptions(
            noise=recipe.true_boxes.noise,
            seed=recipe.true_boxes.seed,
            include_difficult=recipe.data.include_difficult,
            stated_size=recipe.data.stated_size,
            data=recipe.data,
        )

    def images(self, options: TrueBoxesOptions) -> ImagesRead:  # noqa: ARG002
        """Return those that labels are granted to; boxes are cut to the pictures' sizes."""
        return ImagesRead(columns=(CONTENT,), granted=True)

    def contents(self, options: TrueBoxesOptions) -> Mapping[str, Content]:
        """Return the true boxes."""
        return {"true boxes": Content(options.data, _digest)}

    def run(self, job: Job[TrueBoxesOptions]) -> TrueBoxesFacts:
        """Write the boxes. Crowds are left out, and so are difficult objects unless they are included.

        Raises:
            DataError: labels are granted to no split, or none of its images has true boxes.
        """
        options, index = job.options, job.input(job.options.index, Index)
        split, class_names = index.granted_split, index.class_names
        truth = granted_truth(options.data, split)
        planned = job.instance.planned_rows()
        rows = planned_images(planned, index.read()).to_pylist()
        objects = learnable_objects(rows, truth, options.include_difficult, job.instance)
        images = {
            image_id: TrueBoxes(size_hw=of.size_hw, boxes_xyxy=of.boxes_xyxy, class_index=of.class_index)
            for image_id, of in objects.images.items()
        }
        noisy = add_noise(images, num_classes=len(class_names), share=options.noise, seed=options.seed)
        labels = job.instance.table(with_class_names(PSEUDO_LABELS, class_names))
        inputs = {row["image_id"]: row["input"] for row in rows}
        ids = list(images)
        for start in range(0, len(ids), _ROWS_PER_PART):
            part = [_row(i, inputs[i], images[i], noisy[i]) for i in ids[start : start + _ROWS_PER_PART]]
            labels.write_rows(part, f"part-{start // _ROWS_PER_PART:05d}")
        proof = prove(planned, labels, job.instance.dropped)
        kinds = Counter(kind for found in noisy.values() for kind in [*found.kind, *[MISSING] * len(found.missing)])
        wrong = (
            ", ".join(f"{kind} {kinds[kind]:,}" for kind in NOISE_KINDS if kind != CLEAN) if options.noise else "none"
        )
        boxes = sum(len(found.kind) for found in noisy.values())
        apart = "".join(f" · {reason} left out {count:,}" for reason, count in objects.left_out.items())
        return TrueBoxesFacts(
            text=f"{proof} · boxes {boxes:,}{apart} · noise: {wrong} · supervision: {BOXES}",
            images=proof,
            split=split,
            boxes=boxes,
            left_out=objects.left_out,
            noise={"share": options.noise, "seed": options.seed, **{kind: kinds[kind] for kind in NOISE_KINDS}},
            supervision=BOXES,
        )


def run_export_true_boxes(
    run_uri: str, *, name: str, voice: Voice = SILENT, noise: float = 0.0, seed: int = 0
) -> dict[str, Any]:
    """Write the true boxes of the labelled split into a run as ``true-boxes.<name>``, as its data set is indexed.

    Args:
        run_uri: a run with a finished ``index``.
        name: label of the instance.
        voice: for what is said meanwhile.
        noise: share of the boxes to make wrong, in [0, 1].
        seed: of the noise.

    Returns:
        the manifest, with the fields of ``TrueBoxesFacts``.

    Raises:
        ConfigError: a share outside [0, 1], or a name that no folder has.
        DataError: see ``TrueBoxesStage.run``.
        RunError: no finished ``index``, or another process exports the same.
    """
    if not 0 <= noise <= 1:
        raise ConfigError(f"--noise: expected a share in 0..1, got {noise:g}")
    instance, index = f"true-boxes.{name}", finished_instance(run_uri, "index")
    recipe = Recipe(
        name="true boxes",
        stages=(instance,),
        instances={instance: {"noise": noise, "seed": seed}},
        data=replace(indexed_data(index), stated_size=_stated_size(run_uri)),
    )
    return Run(recipe, run_uri, given=[index]).bring([instance], ANY_DROPPED, voice)[instance]


def _stated_size(run_uri: str) -> StatedSize:
    """Return what the run's recipe says now of stated sizes, which is of no matter to its index."""
    uri = join(run_uri, "recipe.yaml")
    fs, path = open_fs(uri)
    return load_recipe(uri)[0].data.stated_size if fs.exists(path) else "check"


def _digest(config: DataConfig) -> str:
    from weaksam.datasets import open_dataset, train_split

    dataset = open_dataset(config)
    return digest_of(granted_truth(config, train_split(dataset, config)))


def _row(image_id: str, input: str, image: TrueBoxes, noisy: NoisyBoxes) -> dict[str, Any]:
    certain: NDArray[np.float32] = np.ones(len(noisy.kind), np.float32)
    return pseudo_labels_to_row(
        image_id,
        input,
        image.size_hw,
        PseudoGroundTruth(
            boxes_xyxy=noisy.boxes_xyxy, class_index=noisy.class_index, score=certain, score_normalised=certain
        ),
        supervision=BOXES,
        noise=noisy.kind,
        rejected=[
            {
                "box_xyxy": image.boxes_xyxy[n].tolist(),
                "class_index": int(image.class_index[n]),
                "score": 1.0,
                "reason": "noise",
            }
            for n in noisy.missing
        ],
    )


STAGE = TrueBoxesStage()
