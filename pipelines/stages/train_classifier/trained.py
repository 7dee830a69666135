"""What ``train-classifier`` leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipelines.training.trained import Trained, TrainingFacts


@dataclass(frozen=True, kw_only=True)
class ClassifierFacts(TrainingFacts):
    """What ``train-classifier`` says of its training."""

    metrics: dict[str, Any] = field(default_factory=dict)  # what ``metrics.json`` holds


class TrainedClassifier(Trained):
    """The product of ``train-classifier``: a clue network, its metrics beside the rest."""

    facts_type = ClassifierFacts
    weights_file = "classifier.safetensors"
