"""CLIP with a set of learnt prompts, and scores of images by them (FMA method 1.3, 2, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from weaksam.config import ClipConfig, PromptLayoutConfig, require
from weaksam.errors import CheckpointError
from weaksam.io.state_dicts import described, described_bytes, load_strictly, read_state_dict
from weaksam.networks.clip.contexts import Prompts
from weaksam.networks.clip.towers import Clip

METADATA_KEY = "prompts"  # of the metadata of our own files; the value is JSON


class PromptedClip(nn.Module):
    """A frozen CLIP, and prompts of C classes and of the background, whose contexts learn.

    Its state is what learns: the contexts, and the last blocks of the image tower where some are tuned.

    Args:
        clip: frozen; blocks of it that are tuned are the ones that learn, and it is no longer as it was.
        class_names: C, of the data.
        config: by which names CLIP is told of classes and background.
        layout: of the prompts.
        tuned_blocks: of the image tower, how many of its last ones learn.

    Raises:
        ConfigError: the tower has fewer blocks.
    """

    def __init__(
        self,
        clip: Clip,
        class_names: Sequence[str],
        config: ClipConfig,
        layout: PromptLayoutConfig,
        tuned_blocks: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes = len(class_names)
        background = config.background if layout.named_background else [""] * len(config.background)
        names = [*(config.names.get(name, name) for name in class_names), *background]
        self.prompts = Prompts(names, clip.vocabulary, clip.token_embedding.weight, layout)
        self._clip = (clip,)  # not a module of this one, whose state would hold all of it
        blocks = list(clip.visual.transformer.resblocks)
        require(tuned_blocks <= len(blocks), "tuned_blocks", f"0..{len(blocks)}, of this CLIP", tuned_blocks)
        self.tuned = nn.ModuleList(blocks[len(blocks) - tuned_blocks :]).requires_grad_(True)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move to a device together with the CLIP."""
        self.clip._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def clip(self) -> Clip:
        """The CLIP, frozen but for the blocks that are tuned."""
        return self._clip[0]

    def texts(self) -> Tensor:
        """Return the embeddings of all prompts, ``[C + K, E]``, not normalised."""
        return self.clip.text_embedding(self.prompts(), self.prompts.last)

    def images(self, pixels: Tensor) -> Tensor:
        """Return the embeddings of images ``[N, 3, H, W]``, see ``CLIP_PIXELS``: ``[N, E]``, not normalised."""
        tower = self.clip.visual
        known = tower.before_last_block(pixels)
        return tower.embedding(known.tokens, known.activations)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return how much each image looks like each class, then like each background, ``[N, C + K]``: 100 times a cosine."""
        return self.clip.logits(self.images(pixels), self.texts())

    def scores(self, pixels: Tensor) -> Tensor:
        """Return the logits of the classes alone, ``[N, C]``."""
        return self.logits(pixels)[:, : self.num_classes]


def prompts_to_bytes(prompted: PromptedClip, class_names: Sequence[str], config: ClipConfig) -> bytes:
    """Return one safetensors file with what has learnt, and in its metadata what rebuilds the prompts."""
    layout = prompted.prompts.layout
    description = {
        "class_names": list(class_names),
        "names": {name: config.names[name] for name in class_names if name in config.names},
        "background": list(config.background),
        "layout": vars(layout),
        "tuned_blocks": len(prompted.tuned),
    }
    return described_bytes(prompted.state_dict(), METADATA_KEY, description)


def load_prompts(path: Path, clip: Clip) -> tuple[PromptedClip, tuple[str, ...]]:
    """Return the prompts of a file with the CLIP that they were taught to, and their classes; nothing of them learns.

    Tuned blocks of the file take the place of those of ``clip``.

    Raises:
        CheckpointError: it is no such file, or its contexts are of another CLIP.
    """
    state, metadata = read_state_dict(path)
    description: dict[str, Any] = described(metadata, METADATA_KEY, str(path))
    try:
        names = tuple(description["class_names"])
        config = ClipConfig(names=description["names"], background=tuple(description["background"]))
        layout = PromptLayoutConfig(**description["layout"])
        tuned_blocks = description.get("tuned_blocks", 0)  # files from before there were such do not say
        prompted = PromptedClip(clip, names, config, layout, tuned_blocks)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected prompts that weaksam trained, got a file that is none ({str(error)[:200]!a}); train them again"
        ) from error
    load_strictly(prompted, state, where=f"{path} as prompts of this CLIP")
    return prompted.eval().requires_grad_(False), names
