"""The weights that a backbone of a detector or a segmenter starts from."""

from __future__ import annotations

from weaksam.config import Weights
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import read_state_dict
from weaksam.io.weights import PUBLISHED
from weaksam.networks.trunks import Trunk


def start_from(trunk: Trunk, init: Weights, backbone: str) -> None:
    """Load the weights of an image classifier that ``init`` names, if it names any, into a backbone; see ``Trunk.init_from``.

    Args:
        trunk: the backbone.
        init: the weights.
        backbone: its name.

    Raises:
        CheckpointError: they are missing, of another network, known to want another input than this backbone's, or have seen
            more than image labels.
    """
    if not init:
        return
    file = init.fetch()
    known = next((name for name, p in PUBLISHED.items() if file.sha256.startswith(p.sha256)), backbone)
    if known != backbone:
        raise CheckpointError(
            f"init: expected weights of {backbone}, but by its checksum {init} is {known}; set backbone to what the weights "
            "are of"
        )
    trunk.init_from(read_state_dict(file.path).tensors, f"init: {init} as {backbone}")
