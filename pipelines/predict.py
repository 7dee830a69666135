"""Boxes for new pictures: the detector that a finished run has trained, over pictures that need no labels.

It is a run of its own, in a folder of its own: index, proposals where the detector scores some, detections. So it continues
where it stopped, looks only at what is new when the pictures grow, and drops what cannot be read. Its recipe is that of the
run which has trained, with the new data, the trained weights and nothing to train.
"""

from __future__ import annotations

import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from pipelines.exchange.content import LabelledImage, SplitPredictions, images_of, predictions_of
from pipelines.exchange.export import Product, Target, find_export, formats_of
from pipelines.exchange.file_names import safe_name
from pipelines.exchange.files import begin_folder
from pipelines.products.detections import DetectionTable
from pipelines.products.index import Index, in_hash_order
from pipelines.recipe.keys import INDEX
from pipelines.recipe.model import Recipe, is_from_outside, label_of, load_recipe, verb_of
from pipelines.registry import product_of
from pipelines.stages.detect import scored_proposals
from pipelines.store.files import write_bytes
from pipelines.store.instances import Instance, finished_instance
from pipelines.training.trained import Trained
from weaksam.drawing import CLASS_COLOURS, draw_boxes, draw_captions, draw_masks, fit
from weaksam.errors import ConfigError, ImageError
from weaksam.io.files import join, open_fs, read_bytes
from weaksam.io.images import decode_image
from weaksam.masks_np import decode_rle

FORMATS = tuple(formats_of(Product.PSEUDO_LABELS))  # of annotations
_PICTURES = "pictures"  # folder of the pictures with their boxes
_LEAST_SIDE, _MOST_SIDE = 640, 1024  # pixels, longest side of a picture with boxes: room for captions
_QUALITY = 90  # of JPEG
_DRAWERS = 4  # threads


class Predictor(NamedTuple):
    """What runs a trained detector over new pictures."""

    recipe: Recipe
    instance: str  # of ``detect``, whose detections are the predictions


def predictor_of(run_uri: str, data_uri: str, detect: str = "", overrides: Sequence[str] = ()) -> Predictor:
    """Return the recipe of predictions with what a run has trained.

    Args:
        run_uri: the run, whose detector is trained.
        data_uri: where the new pictures are.
        detect: the instance of ``detect`` that runs the detector; empty = the last that the run lists and that sees all views.
        overrides: ``a.b=c``, over the run's recipe.

    Raises:
        ConfigError: the run detects nothing, or needs proposals that no stage makes.
        RunError: what is needed of it is not finished.
    """
    file = join(run_uri, "recipe.yaml")
    trained, _ = load_recipe(file, overrides)
    name = detect or _last_detect(trained, run_uri)
    if verb_of(name) != "detect":
        raise ConfigError(f"--of: expected an instance of detect, got {name!r}")
    model = trained.of(name).detect.model
    proposals = _proposals_of(trained, name)
    settings: dict[str, Any] = {
        "stages": [INDEX, *proposals, name],
        **{f"data.{option}": value for option, value in _AS_PICTURES.items()},
        **{_path(instance, "splits"): [] for instance in (*proposals, name)},
        _path(name, "within"): "",
        **_detector_weights(trained, model, run_uri),
    }
    for instance in proposals:
        settings |= _clue_weights(trained, instance, run_uri)
    values = [f"{path}={json.dumps(value)}" for path, value in settings.items()]
    return Predictor(load_recipe(file, [*values, *overrides], data_uri)[0], name)


def require_own_folder(out: str, run_uri: str) -> None:
    """Raise ConfigError if a folder holds a run that is not one of predictions, such as the one which has trained."""
    fs, path = open_fs(join(out, "recipe.yaml"))
    if fs.exists(path) and not load_recipe(join(out, "recipe.yaml"))[0].data.pictures_only:
        which = "the run that trained the detector" if out == run_uri else "another run"
        raise ConfigError(f"--out {out}: expected a folder for predictions, got that of {which}; name another")


def write_predictions(
    index: Instance, detected: Instance, to: str, *, least_score: float, pictures: int
) -> Iterator[str]:
    """Write what was predicted beside the tables of its run, in a format of annotations and as pictures with boxes.

    Args:
        index: finished, of the run of predictions.
        detected: finished, of ``detect``.
        to: one of ``FORMATS``; what an earlier call wrote is replaced.
        least_score: boxes that score less are left out.
        pictures: at most so many of a split are drawn, a sample that does not depend on their names; 0 = none.

    Yields:
        lines for people, of one split after the other.

    Raises:
        ConfigError: there is no such format.
        DataError: names that the format cannot hold, or files of somebody else are in the way.
    """
    export = find_export(Product.PSEUDO_LABELS, to)
    for split in Index(index).facts.splits:
        found = predictions_of(images_of(index, split, "", skip_missing=True), detected, least_score)
        out = join(index.run_uri, to, *([f"{safe_name(split)}{export.suffix}"] if export.suffix else []))
        said = export.write(found, Target(out=out, overwrite=True))
        yield f"{out}: {to} · {found.text}{said}"
        if hint := _of_too_strict(found, detected):
            yield hint
        if pictures:
            yield _draw(found, join(index.run_uri, _PICTURES), pictures)


# Of another data set than the one that was learnt from, whatever it is, the pictures alone.
_AS_PICTURES = {"kind": "auto", "splits": [], "train_split": "auto", "limit": 0, "pictures_only": True}


def _path(instance: str, option: str) -> str:
    """Return the path of an instance's own option in a recipe, as ``--set`` takes it."""
    return f"{instance}.{option}" if label_of(instance) else f"instances.{instance}.{option}"


def _last_detect(recipe: Recipe, run_uri: str) -> str:
    """Return the instance of ``detect`` that a recipe lists last, of those that see an image as it is, in all scales."""
    listed = [name for name in recipe.stages if verb_of(name) == "detect" and recipe.of(name).detect.view == "all"]
    if not listed:
        raise ConfigError(
            f"{run_uri}: expected a run that trains a detector and lists an instance of detect, its recipe has the stages "
            f"{', '.join(recipe.stages)}; name one with --of"
        )
    return listed[-1]


def _proposals_of(recipe: Recipe, detect: str) -> tuple[str, ...]:
    """Return the instances whose proposals the detector scores; none for one that finds its boxes alone."""
    seen = recipe.of(detect)
    if verb_of(seen.detect.model) != "train-mil":
        return ()
    names = scored_proposals(seen)
    outside = next(filter(is_from_outside, names), None)
    if outside is not None:
        raise ConfigError(
            f"{detect} scores {outside}, proposals that were read from a file, of which there are none for new pictures; name "
            "a detector that finds its boxes alone (--of detect.final), or let it score others "
            f"(--set {_path(detect, 'proposals')}=[propose])"
        )
    return names


def _detector_weights(recipe: Recipe, model: str, run_uri: str) -> Mapping[str, str]:
    """Return the option that names a detector's weights, unless the recipe does."""
    seen = recipe.of(model)
    given = seen.mil.weights if verb_of(model) == "train-mil" else seen.retrain.weights
    return {} if given else {_path(model, "weights"): _trained(run_uri, model)}


def _clue_weights(recipe: Recipe, propose: str, run_uri: str) -> Mapping[str, str]:
    """Return the option that names the weights of the clues, where they are trained and the recipe does not."""
    seen = recipe.of(propose)
    if not (seen.uses_clues and seen.clues.source.trained) or seen.clues.weights:
        return {}
    return {_path(propose, "clues.weights"): _trained(run_uri, seen.propose.classifier)}


def _trained(run_uri: str, name: str) -> str:
    """Return where the weights of a finished training are."""
    trained = product_of(finished_instance(run_uri, name))
    assert isinstance(trained, Trained)
    return trained.weights_uri


def _of_too_strict(found: SplitPredictions, detected: Instance) -> str:
    """Return what to do where no box scores enough, but some were found."""
    if found.counts["boxes"]:
        return ""
    best = max(
        (float(image.detections.score.max()) for image in DetectionTable(detected).images() if image.detections),
        default=0,
    )
    return f"no box scores {found.least_score:g}; the best scores {best:.2g}: --score {best / 2:.1g}" if best else ""


def _draw(found: SplitPredictions, folder: str, most: int) -> str:
    """Draw the boxes of some images into a folder; return what to say of it."""
    by_id = {image.image_id: image for image in found.images}
    chosen = [by_id[image_id] for image_id in in_hash_order(list(by_id))[:most]]
    files = [_picture_file(image.file_name) for image in chosen]
    begin_folder(folder, files, to=_PICTURES, split=safe_name(found.of.split), overwrite=True)

    def draw(image: LabelledImage, file: str) -> bool:
        try:
            data = _with_boxes(image, found.class_names)
        except ImageError:
            return False
        write_bytes(join(folder, file), data)
        return True

    with ThreadPoolExecutor(_DRAWERS) as threads:
        drawn = sum(threads.map(draw, chosen, files))
    lost = f", {len(chosen) - drawn:,} cannot be read any more" if drawn < len(chosen) else ""
    more = f" of {len(by_id):,}; --pictures {len(by_id)} draws all" if len(chosen) < len(by_id) else ""
    return f"{folder}: {drawn:,} pictures with their boxes{lost}{more}"


def _picture_file(name: str) -> str:
    """Return what the drawn picture of a picture is called: a JPEG."""
    return name if posixpath.splitext(name)[1].lower() in (".jpg", ".jpeg") else f"{name}.jpg"


def _with_boxes(image: LabelledImage, class_names: Sequence[str]) -> bytes:
    """Return a picture with the boxes that were found in it, and their masks if there are some, a JPEG."""
    pixels = decode_image(read_bytes(image.uri))
    picture, scale = fit(pixels, min(max(_LEAST_SIDE, *pixels.shape[:2]), _MOST_SIDE))
    boxes = list(image.boxes())[::-1]  # the best last, on top of all
    colours = [CLASS_COLOURS[class_index % len(CLASS_COLOURS)] for _, class_index, _ in boxes]
    captions = [f"{class_names[class_index]} {score:.2f}" for _, class_index, score in boxes]
    corners = image.found.boxes_xyxy[::-1]
    masks = [decode_rle(rle) for rle in image.masks() if rle is not None][::-1]
    picture = draw_masks(picture, masks, colours[: len(masks)])  # of all boxes or of none
    drawn = draw_captions(draw_boxes(picture, corners, colours, scale=scale), corners, captions, colours, scale=scale)
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
