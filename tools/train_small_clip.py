"""Train the built-in small CLIP on drawings and sentences about them: ``python -m tools.train_small_clip [--evaluate]``.

CLIP's own way (Radford et al. 2021) in miniature, with two changes. Sentences are made of what is drawn ("a red ring left of a
star"), so that it is known which of a batch's are true of which image: each image is to prefer all that are true of it over all
that are not, and each sentence its images. And an image's embedding is that of its patches' mean, as all users of it here take
it. Its patches come of the built-in stem, which learns along: a transformer alone, of twice as many blocks, named shapes hardly
better than by chance after 500 such steps (mAP .40 for .34). Sentences tell classes, colours and places of objects; no mask is
learnt. Drawings are of seeds that no recipe reaches.
"""

from __future__ import annotations

import argparse
import colorsys
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from weaksam.config import ClipConfig, Weights
from weaksam.datasets.shapes import CLASS_NAMES, draw, reserved_seed
from weaksam.io.builtin_weights import BUILTIN_WEIGHTS
from weaksam.metrics.classification import classification_scores
from weaksam.networks.clip.load import clip_to_bytes, load_clip
from weaksam.networks.clip.tokens import END, START, Vocabulary, all_tokens
from weaksam.networks.clip.towers import CLIP_PIXELS, Block, Clip, ClipArchitecture
from weaksam.networks.small_stem import load_builtin_classifier
from weaksam.random import derive_seed

logger = logging.getLogger(__name__)

SIZE = 128  # pixels of a drawing
VIEW = 96  # pixels of what the network sees of it
BATCH_SIZE = 64
SENTENCES = 2  # about each view
PEAK_LR = 1e-3
WEIGHT_DECAY = 0.05
WARMUP = 0.05  # share of the steps
WHOLE = 0.35  # share of views that are whole drawings
ZOOMED = (36, 97)  # pixels, sides of the other views: from one up to below the other
MIN_SHARE = 0.35  # of an object's visible pixels that a view must hold for it to be in the view
TEST_IMAGES = 500

ARCHITECTURE = ClipArchitecture(
    embed_dim=128,
    image_dim=128,
    image_layers=3,
    image_heads=2,
    patch=8,
    stem="cnn",
    grid=VIEW // 8,
    text_dim=128,
    text_layers=2,
    text_heads=2,
    context_length=40,
)

GROUND, BLOB = "ground", "blob"  # what is drawn and of no class
HUES = {
    "red": 15,
    "orange": 45,
    "yellow": 70,
    "green": 160,
    "cyan": 200,
    "blue": 260,
    "purple": 295,
    "pink": 345,
}  # up to
GREY = "grey"  # of a lower saturation than MIN_SATURATION
MIN_SATURATION = 0.2
RELATIONS = ("left of", "right of", "above", "below")
BEGINNINGS = ("", "a photo of", "a picture of", "a drawing of", "there is")
WORDS = (*CLASS_NAMES, GROUND, BLOB, *HUES, GREY, *RELATIONS, *BEGINNINGS, "a", "an", "the", "and", "plain", ".")


@dataclass(frozen=True)
class Thing:
    """An object of a view, or what a sentence says of one."""

    name: str
    colour: str = ""  # "": not said
    centre_xy: tuple[float, float] = (0.0, 0.0)  # of its visible pixels; not said

    def is_meant(self, by: Thing) -> bool:
        """Whether a sentence's thing may be this one."""
        return self.name == by.name and by.colour in ("", self.colour)

    def words(self) -> str:
        """What a sentence calls it."""
        called = f"{self.colour} {self.name}".strip()
        return f"{'an' if called[0] in 'aeo' else 'a'} {called}"


@dataclass(frozen=True)
class Clause:
    """A thing, or two and where the first lies."""

    first: Thing
    relation: str = ""
    second: Thing | None = None

    def holds(self, things: Sequence[Thing]) -> bool:
        """Whether it is true of a view's things."""
        firsts = [thing for thing in things if thing.is_meant(self.first)]
        if self.second is None:
            return bool(firsts)
        seconds = [thing for thing in things if thing.is_meant(self.second)]
        return any(_relation_holds(self.relation, a, b) for a in firsts for b in seconds if a is not b)

    def words(self) -> str:
        """The clause in words."""
        return f"{self.first.words()} {self.relation} {self.second.words()}" if self.second else self.first.words()


@dataclass(frozen=True)
class Sentence:
    """Clauses that are all true of a view; without one, that it shows the ground alone."""

    clauses: tuple[Clause, ...]
    beginning: str = ""

    def holds(self, things: Sequence[Thing]) -> bool:
        """Whether it is true of a view's things."""
        return all(clause.holds(things) for clause in self.clauses) if self.clauses else not things

    def words(self) -> str:
        """The sentence in words, with its stop."""
        said = " and ".join(clause.words() for clause in self.clauses) or f"plain {GROUND}"
        return f"{self.beginning} {said} .".strip()


def _relation_holds(relation: str, a: Thing, b: Thing) -> bool:
    (ax, ay), (bx, by) = a.centre_xy, b.centre_xy
    return {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}[relation]


def sentence_about(things: Sequence[Thing], rng: np.random.Generator) -> Sentence:
    """Say something true of a view."""
    if not things:
        return Sentence((), str(rng.choice(BEGINNINGS[:-1])))
    clauses = []
    for _ in range(1 + int(rng.choice(3, p=(0.75, 0.2, 0.05)))):
        first = things[int(rng.integers(len(things)))]
        second = things[int(rng.integers(len(things)))]
        related = [relation for relation in RELATIONS if _relation_holds(relation, first, second)]
        if first is second or not related or rng.random() < 0.5:
            clauses.append(Clause(_said(first, rng)))
        else:
            clauses.append(Clause(_said(first, rng), str(rng.choice(related)), _said(second, rng)))
    return Sentence(tuple(clauses), str(rng.choice(BEGINNINGS)))


def _said(thing: Thing, rng: np.random.Generator) -> Thing:
    return Thing(thing.name, thing.colour if rng.random() < 0.4 else "")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Drawings held in memory."""

    images: NDArray[np.uint8]  # [N, H, W, 3]
    numbers: NDArray[np.uint8]  # [N, H, W] 1.. of objects, then of blobs, 0 of the ground
    names: Sequence[Sequence[str]]  # of these numbers, from 1


def draw_corpus(purpose: str, count: int) -> Corpus:
    """Draw the first ``count`` drawings that are reserved for ``purpose``."""
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    numbers = np.empty((count, SIZE, SIZE), np.uint8)
    names = []
    for index in range(count):
        drawing = draw(reserved_seed(purpose, index), SIZE)
        objects, blobs = len(drawing.class_index), drawing.distractor_map
        images[index] = drawing.image
        numbers[index] = np.where(blobs > 0, blobs + objects, drawing.instance_map)
        names.append([*(CLASS_NAMES[c] for c in drawing.class_index), *[BLOB] * int(blobs.max())])
    return Corpus(images=images, numbers=numbers, names=names)


def views(corpus: Corpus, batch: int, rng: np.random.Generator) -> tuple[Tensor, list[list[Thing]]]:
    """Return views uint8 ``[batch, 3, VIEW, VIEW]`` of random drawings, and what is in each."""
    pixels, contents = [], []
    for index in rng.integers(0, len(corpus.images), batch):
        side = SIZE if rng.random() < WHOLE else int(rng.integers(*ZOOMED))
        # Around any pixel of a thing, so that most views show one thing well and few show none.
        rows, columns = np.nonzero(corpus.numbers[index])
        pick = int(rng.integers(len(rows)))
        top, left = (min(max(int(at) - int(rng.integers(side)), 0), SIZE - side) for at in (rows[pick], columns[pick]))
        window = np.s_[top : top + side, left : left + side]
        image, numbers = corpus.images[index][window], corpus.numbers[index][window]
        if rng.random() < 0.5:
            image, numbers = image[:, ::-1], numbers[:, ::-1]
        turns = int(rng.integers(4))
        image, numbers = np.rot90(image, turns)[..., rng.permutation(3)], np.rot90(numbers, turns)
        whole = np.bincount(corpus.numbers[index].ravel(), minlength=1 + len(corpus.names[index]))
        contents.append(things_in(image, numbers, corpus.names[index], whole))
        view = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        pixels.append(F.interpolate(view, (VIEW, VIEW), mode="bilinear", antialias=True)[0])
    return torch.stack(pixels), contents


def things_in(
    image: NDArray[np.uint8], numbers: NDArray[np.uint8], names: Sequence[str], whole: NDArray[np.int64]
) -> list[Thing]:
    """Return what a view ``[h, w]`` shows enough of; ``whole`` counts each number's pixels in the drawing."""
    found = []
    for number, name in enumerate(names, start=1):
        inside = numbers == number
        count = int(inside.sum())
        if count and count >= MIN_SHARE * whole[number]:
            rows, columns = np.nonzero(inside)
            colour = colour_of(np.median(image[inside], axis=0))
            found.append(Thing(name, colour, (float(columns.mean()), float(rows.mean()))))
    return found


def colour_of(rgb: NDArray[np.floating]) -> str:
    """Return the name of a colour, R, G and B in 0..255."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(float(value) / 255 for value in rgb))
    if saturation < MIN_SATURATION:
        return GREY
    return next((name for name, end in HUES.items() if 360 * hue < end), "red")


def small_vocabulary() -> Vocabulary:
    """Return the tokens of all words that sentences are made of."""
    return Vocabulary(sorted({START, END, *(token for word in WORDS for token in all_tokens(word))}))


def embed_images(clip: Clip, pixels: Tensor) -> Tensor:
    """Embed views ``[N, 3, H, W]`` of 0..255, ``[N, E]``."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_PIXELS.mean, CLIP_PIXELS.std))
    known = clip.visual.before_last_block((pixels / 255 - mean) / std)
    return clip.visual.embedding(known.tokens, known.activations)


def contrastive_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Cross-entropy of each row, and of each column, with its true entries alike; bool ``true`` has one in each."""
    losses = []
    for scores, targets in ((logits, true), (logits.T, true.T)):
        shares = targets.float() / targets.sum(dim=1, keepdim=True)
        losses.append(F.cross_entropy(scores, shares))
    return torch.stack(losses).mean()


class Steps(Dataset[tuple[Tensor, list[str], Tensor]]):
    """By step: views ``[B, 3, VIEW, VIEW]``, sentences about each, and bool ``[B, S]`` which of these is true of which view."""

    def __init__(self, corpus: Corpus, seed: int, steps: int) -> None:
        self._corpus, self._seed, self._steps = corpus, seed, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> tuple[Tensor, list[str], Tensor]:
        rng = np.random.default_rng([self._seed, step])
        pixels, contents = views(self._corpus, BATCH_SIZE, rng)
        sentences = [sentence_about(things, rng) for things in contents for _ in range(SENTENCES)]
        true = torch.tensor([[sentence.holds(things) for sentence in sentences] for things in contents])
        return pixels, [sentence.words() for sentence in sentences], true


def train(seed: int, steps: int, drawings: int) -> Clip:
    """Train from scratch, each step on other views."""
    torch.set_num_threads(
        1
    )  # the loader's process makes views on the other core, and a machine repeats its result bit for bit
    torch.manual_seed(derive_seed(seed, "small clip"))
    vocabulary = small_vocabulary()
    clip = Clip(_of_vocabulary(vocabulary), vocabulary).requires_grad_(True)
    for block in (*clip.visual.transformer.resblocks, *clip.transformer.resblocks):
        assert isinstance(block, Block)
        for layer in (block.attn.out_proj, block.mlp.c_proj):
            torch.nn.init.normal_(layer.weight, std=0.02)
    torch.nn.init.normal_(clip.token_embedding.weight, std=0.02)
    clip.logit_scale.data.fill_(float(np.log(1 / 0.07)))
    clip.visual.conv1.load_state_dict(load_builtin_classifier().stem.state_dict())
    corpus = draw_corpus("clip-train", drawings)
    _tell_apart(clip, *Steps(corpus, seed + 1, 1)[0][:2])
    decayed = [p for p in clip.parameters() if p.ndim >= 2]
    spared = [p for p in clip.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=steps, pct_start=WARMUP, cycle_momentum=False
    )
    losses: list[float] = []
    began = time.monotonic()
    loader = DataLoader(Steps(corpus, seed, steps), batch_size=None, num_workers=1)
    for step, (pixels, sentences, true) in enumerate(loader, start=1):
        with torch.autocast("cpu", torch.bfloat16):
            images, texts = embed_images(clip, pixels), clip.embed_texts(sentences)
        loss = contrastive_loss(clip.logits(images.float(), texts.float()), true)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        clip.logit_scale.data.clamp_(max=float(np.log(100)))
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            speed = step * BATCH_SIZE / (time.monotonic() - began)
            logger.info("step %d of %d: loss %.4f, %.0f img/s", step, steps, np.mean(losses[-100:]), speed)
        if step % 500 == 0:
            logger.info("%s", evaluate(clip, "clip-val", 200))
    return clip.requires_grad_(False).eval()


@torch.no_grad()
def _tell_apart(clip: Clip, pixels: Tensor, sentences: Sequence[str]) -> None:
    """Take from both projections what all images, and all sentences, have in common before anything is learnt.

    It is nearly all of them, so that all cosines would be 1, and a long time would pass until they are not.
    """
    for projection, embedded in (
        (clip.visual.proj, embed_images(clip, pixels)),
        (clip.text_projection, clip.embed_texts(sentences)),
    ):
        common = F.normalize(embedded.mean(dim=0), dim=0)
        projection.sub_((projection @ common)[:, None] * common)


def _of_vocabulary(vocabulary: Vocabulary) -> ClipArchitecture:
    return replace(ARCHITECTURE, vocabulary=len(vocabulary))


@torch.inference_mode()
def evaluate(clip: Clip, purpose: str = "clip-test", images: int = TEST_IMAGES) -> dict[str, float]:
    """Name what is in drawings by "a drawing of a NAME ." alone, which no image was labelled with.

    Returns:
        ``map``: mean average precision over the six classes; ``map_chance``: of a random order; ``first``: share of images
        whose best name is of something in it; ``first_chance``: of a random name.
    """
    texts = clip.embed_texts([Sentence((Clause(Thing(name)),), "a drawing of").words() for name in CLASS_NAMES])
    scores, labels = [], []
    for pixels, present in _test_drawings(purpose, images):
        scores.append(clip.logits(embed_images(clip, pixels[None]), texts)[0].numpy())
        labels.append(present)
    found = classification_scores(np.stack(scores), labels)
    hits = [int(score.argmax()) in present for score, present in zip(scores, labels, strict=True)]
    share = [len(present) / len(CLASS_NAMES) for present in labels]
    return {
        "map": found.mean_ap,
        "map_chance": float(np.mean(share)),
        "first": float(np.mean(hits)),
        "first_chance": float(np.mean(share)),
    }


def _test_drawings(purpose: str, images: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield drawings ``[3, SIZE, SIZE]``, 0..255, with the classes of objects that are not difficult, where there are any."""
    for index in range(images):
        drawing = draw(reserved_seed(purpose, index), SIZE)
        present = sorted({int(c) for c in drawing.class_index[~drawing.difficult]})
        if present:
            yield torch.from_numpy(drawing.image).permute(2, 0, 1).float(), present


def main() -> None:
    """Train and write the file, or measure it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000, help=f"of {BATCH_SIZE} views each")
    parser.add_argument("--drawings", type=int, default=8_000)
    parser.add_argument("--output", type=Path, default=BUILTIN_WEIGHTS["clip"].path)
    parser.add_argument("--evaluate", action="store_true", help="measure the file at --output instead of training")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not options.evaluate:
        clip = train(options.seed, options.steps, options.drawings)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_bytes(clip_to_bytes(clip))
    for name, value in evaluate(load_clip(ClipConfig(weights=Weights(str(options.output))))).items():
        logger.info("%-12s %.3f", name, value)


if __name__ == "__main__":
    main()
