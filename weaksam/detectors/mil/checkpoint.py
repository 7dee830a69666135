"""Detector checkpoints: our own file, and the published MIST and OICR ones by their key names (method 4.8).

Our own is one safetensors file whose metadata says what it is. A published one is a PyTorch file: MIST's (wetectron)
holds ``{model, model_cdb, optimizer, scheduler, iteration}``, OICR's (mmdet) ``{state_dict, meta, optimizer}``. Both are of a
Caffe VGG-16 and name no classes. Pickled code is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from torch import Tensor

from weaksam.detectors.mil.base import NUM_BRANCHES
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import described, is_safetensors, read_pickled, read_safetensors, refuse_nan, unwrapped
from weaksam.networks.roi_backbones import VGG_STAGES
from weaksam.structures import IMAGE_LABELS

METADATA_KEY = "detector"  # of the metadata of our own files; the value is JSON
PUBLISHED_BACKBONE = "vgg16.caffe"
ADVERSARY = "adversary."  # our names of the adversary's weights begin with it

# Published names and ours, both without ".weight" or ".bias".
_CONVOLUTIONS = [
    (stage + 1, place + 1, start + 2 * place)  # convM_N of the paper is layer number ... of torchvision
    for stage, start in enumerate(VGG_STAGES[:-1])
    for place in range(2 if stage < 2 else 3)
]
_MIST_NAMES = {
    **{f"backbone.body.features.{layer}": f"body.conv.{layer}" for _, _, layer in _CONVOLUTIONS},
    "roi_heads.feature_extractor.classifier.1": "body.fc.0",
    "roi_heads.feature_extractor.classifier.4": "body.fc.3",
    "roi_heads.predictor.cls_score": "class_stream",
    "roi_heads.predictor.det_score": "detection_stream",
    **{f"roi_heads.predictor.ref{k + 1}": f"refinements.{k}" for k in range(NUM_BRANCHES)},
    **{f"roi_heads.predictor.bbox_pred{k + 1}": f"box_branches.{k}" for k in range(NUM_BRANCHES)},
}
_OICR_NAMES = {
    **{f"backbone.conv{m}_{n}": f"body.conv.{layer}" for m, n, layer in _CONVOLUTIONS},
    "roi_head.bbox_head.fc1": "body.fc.0",
    "roi_head.bbox_head.fc2": "body.fc.3",
    "roi_head.bbox_head.fc_cls1": "class_stream",
    "roi_head.bbox_head.fc_cls2": "detection_stream",
    **{f"roi_head.bbox_head.fc_refine{k + 1}": f"refinements.{k}" for k in range(NUM_BRANCHES)},
}
_UNUSED = "roi_heads.model_sim."  # a contrastive module of the released MIST code that nothing reads


class Checkpoint(NamedTuple):
    """Weights under our names, and whose they are."""

    detector: str  # a key of MIL_DETECTORS, or of RETRAINED
    backbone: str
    num_classes: int
    class_names: tuple[str, ...]  # () where the file names none
    supervision: str  # ``IMAGE_LABELS``, ``BOXES`` or ``MASKS``
    state: dict[str, Tensor]
    options: Mapping[str, Any]  # that it was trained with, by section; {} where the file does not say


def read_checkpoint(file: BinaryIO, where: str) -> Checkpoint:
    """Read a detector's file, ours or a published one, on the CPU.

    Args:
        file: opened for reading bytes, and able to seek.
        where: its name, for messages.

    Raises:
        CheckpointError: it is damaged, of another kind, or holds objects other than tensors and plain values.
    """
    start = file.read(9)
    file.seek(0)
    if is_safetensors(start):
        return _own(file.read(), where)
    return _published(read_pickled(file, where, expected="a detector"), where)


def _own(data: bytes, where: str) -> Checkpoint:
    state, metadata = read_safetensors(data, where)
    found = described(metadata, METADATA_KEY, where)
    fits = {key: isinstance(found.get(key), str) for key in ("detector", "backbone", "supervision")}
    names = found.get("class_names")
    fits["class_names"] = isinstance(names, list) and all(isinstance(name, str) for name in names)
    missing = [key for key, fit in fits.items() if not fit] if metadata else ["__metadata__"]
    if missing:
        raise CheckpointError(
            f"{where}: expected a detector that weaksam trained, but its metadata has no {missing[0]!r}; give the file that "
            "train-mil or retrain wrote"
        )
    refuse_nan(state, where)
    names = tuple(found["class_names"])
    options = found.get("config")
    return Checkpoint(
        found["detector"],
        found["backbone"],
        len(names),
        names,
        found["supervision"],
        state,
        options if isinstance(options, dict) else {},
    )


def _published(content: object, where: str) -> Checkpoint:
    whole: dict[Any, Any] = content if isinstance(content, dict) else {}
    inner = unwrapped(whole)
    state = {_bare(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    if any(key.startswith("backbone.body.features.") for key in state):
        own = _renamed({k: v for k, v in state.items() if not k.startswith(_UNUSED)}, _MIST_NAMES)
        own |= {ADVERSARY + key: value for key, value in _adversary(whole.get("model_cdb", {}), where).items()}
        detector = "mist"
    elif any(key.startswith("roi_head.bbox_head.") for key in state):
        own = {
            k: _background_first(v) if k.startswith("refinements.") else v
            for k, v in _renamed(state, _OICR_NAMES).items()
        }
        detector = "oicr"
    else:
        held = ", ".join(sorted(map(str, inner))[:5]) or type(content).__name__
        raise CheckpointError(
            f"{where}: expected a detector of weaksam, or the published MIST ('backbone.body.features.…') or OICR "
            f"('roi_head.bbox_head.…'); got {held}; weights of a backbone alone belong in init"
        )
    refuse_nan(own, where)
    if "refinements.0.bias" not in own:
        raise CheckpointError(f"{where}: a published {detector} without its first refinement branch; a damaged copy")
    return Checkpoint(detector, PUBLISHED_BACKBONE, len(own["refinements.0.bias"]) - 1, (), IMAGE_LABELS, own, {})


def _bare(key: str) -> str:
    """Strip what wrappers put before a name."""
    while key.startswith(("model.", "module.")):
        key = key.partition(".")[2]
    return key


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Put our names for the published ones; a name that is not known stays, and is surplus when it is loaded."""
    renamed = {}
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{kind}"] = value
    return renamed


def _background_first(values: Tensor) -> Tensor:
    """Move the background's row to the front: mmdet counts it after the classes. Not tried on the published file itself."""
    return values.roll(1, dims=0)


def _adversary(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Put our names on MIST's DropBlock: its names are documented nowhere, its shapes are (method 4.5), and they differ."""
    own: dict[str, Tensor] = {}
    for key, value in state.items():
        kind = key.rpartition(".")[2]
        if kind == "num_batches_tracked":
            continue
        side = value.shape[-1] if value.ndim == 4 else 0
        name = f"{_ADVERSARY_LAYERS.get((value.ndim, side, len(value) == 2))}.{kind}"
        if name not in _ADVERSARY_NAMES or name in own:
            raise CheckpointError(f"{where}: model_cdb: did not expect {key} of shape {list(value.shape)} in DropBlock")
        own[name] = value
    if own and set(own) != _ADVERSARY_NAMES:
        raise CheckpointError(f"{where}: model_cdb: missing {', '.join(sorted(_ADVERSARY_NAMES - set(own)))}")
    return own


# (dimensions, side of the kernel, whether of two channels) -> layer of ``ConcreteDropBlock``
_ADVERSARY_LAYERS = {
    (4, 3, False): "block.0",
    (1, 0, False): "block.1",
    (4, 3, True): "block.3",
    (1, 0, True): "block.4",
    (4, 1, True): "shortcut",
}
_NORM = ("weight", "bias", "running_mean", "running_var")
_ADVERSARY_NAMES = {f"{layer}.{kind}" for layer in ("block.1", "block.4") for kind in _NORM} | {
    f"{layer}.weight" for layer in ("block.0", "block.3", "shortcut")
}
