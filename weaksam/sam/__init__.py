"""The Segment Anything model, from an image to masks.

    models      what a recipe must know of each model, and where its network is built
    load        a SAM by name, with weights loaded strictly
    small       the built-in small one, for drawings
    lite        the other one that is installed, for photographs
    mobile      MobileSAM, for CPUs
    encode      an image to its embedding, once
    prompt      points and boxes on an encoded image to low-resolution masks and predicted IoUs
    precision   SAM in half precision, if asked for
    kernels     the arithmetic of the mask decoder, in exchangeable implementations
    measure     low-resolution masks to boxes and stability, and to full-size masks
    segment     boxes to full-size masks
    everything  an image to the masks of all that is in it, without prompts of its own

segment-anything's own ways, ``SamPredictor.predict`` per prompt and ``SamAutomaticMaskGenerator`` for a grid, give the
same masks slower: they encode the image anew for each kind of prompt, copy it for each prompt of a batch, decode masks
nobody asked for, and make run-length codes of everything before most of it is filtered away. The modules here call the
model's own layers in an order that shares what prompts of one image have in common. Tests hold them to the stock calls;
``benchmarks/proposals.py`` times both.

Images never mix, on any device: an image is encoded alone, its prompts are decoded and its masks measured in chunks that
hold nothing of another image and whose size depends on the model and the device alone (``weaksam/chunks.py``). Whatever is
computed before or beside an image, its own computation is therefore the same one, and on one machine's CPU, with as many
threads, its result is the same bit for bit. Only an accelerator whose memory is short makes chunks smaller, and running
out of it halves them, for the image at hand.

This file names the models and finds their files without torch, so that checksums can enter a stage's key before any model
is built.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from weaksam.config import SamConfig, Weights
from weaksam.errors import ConfigError
from weaksam.io.weights import PUBLISHED, WeightsFile
from weaksam.registry import Registry

if TYPE_CHECKING:
    from weaksam.sam.models import SamModel

SAMS: Registry[SamModel] = Registry(
    "weaksam.sams",
    {
        "builtin": "weaksam.sam.models:BUILTIN",
        "lite": "weaksam.sam.models:LITE",
        "vit_t": "weaksam.sam.models:VIT_T",
        "vit_b": "weaksam.sam.models:VIT_B",
        "vit_l": "weaksam.sam.models:VIT_L",
        "vit_h": "weaksam.sam.models:VIT_H",
    },
)


def named_weights(config: SamConfig) -> Weights:
    """Return the weights that ``config`` means: its own, the model's, or those published under the model's name.

    Raises:
        ConfigError: no weights are given for a model of which none are known.
    """
    own, model = config.weights, SAMS[config.name].weights
    if own:
        return own
    if model:
        return replace(own, uri=model.uri, sha256=model.sha256)
    if config.name not in PUBLISHED:
        raise ConfigError(f"weights: expected a file or an address for {config.name}, got nothing; give one")
    return replace(own, uri=PUBLISHED[config.name].uri)


def sam_weights(config: SamConfig) -> WeightsFile:
    """Return the file of the weights that ``config`` means.

    Raises:
        CheckpointError: the file is missing, cannot be fetched, or fails its checksum.
        ConfigError: see ``named_weights``.
    """
    return named_weights(config).fetch()
