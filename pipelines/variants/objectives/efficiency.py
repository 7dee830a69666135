"""What proposals and detectors take: time and memory (Table 6)."""

from __future__ import annotations

from pipelines.products.proposals import ProposalTable
from pipelines.training.trained import Trained
from pipelines.variants.objectives.base import ALL_IMAGES, Objective, Reading, Values


def _images(reading: Reading) -> Values:
    proof = ProposalTable(reading.instance).facts.images
    return {ALL_IMAGES: None if proof is None else proof.done}


def _propose_seconds(reading: Reading) -> Values:
    facts = ProposalTable(reading.instance).facts
    whole = facts.images is not None and facts.throughput is not None and facts.throughput.images == facts.images.done
    return _seconds(reading, whole=whole)


def _train_seconds(reading: Reading) -> Values:
    steps = Trained(reading.instance).facts.steps
    return _seconds(reading, whole=steps is not None and steps.resumed_at == 0)


def _seconds(reading: Reading, *, whole: bool) -> Values:
    """Return how long an instance took; None, and a note, if it was interrupted and only its last run was timed."""
    if whole:
        return {ALL_IMAGES: reading.seconds}
    reading.notes.append(
        f"{reading.name} was interrupted and went on; only its last run was timed, {reading.seconds:,} s"
    )
    return {ALL_IMAGES: None}


def _memory(reading: Reading) -> Values:
    return {ALL_IMAGES: Trained(reading.instance).facts.gpu_memory_mib}


def _training(instance: str, of: str) -> Objective:
    what = f"time of training {of}"
    return Objective(what=what, instance=instance, read=_train_seconds, unit="s", more_is_better=False)


PROPOSED_IMAGES = Objective(what="images that proposals were made for", instance="propose", read=_images, unit="images")
PROPOSE_SECONDS = Objective(
    what="time of making the proposals", instance="propose", read=_propose_seconds, unit="s", more_is_better=False
)
TRAIN_CLASSIFIER_SECONDS = _training("train-classifier", "the classifier whose maps are clues")
TRAIN_MIL_SECONDS = _training("train-mil", "the weakly-supervised detector")
RETRAIN_SECONDS = _training("retrain", "the detector that learns from pseudo labels")
TRAIN_MIL_MEMORY = Objective(
    what="memory of one GPU in training the weakly-supervised detector",
    instance="train-mil",
    read=_memory,
    unit="MiB",
    more_is_better=False,
)
