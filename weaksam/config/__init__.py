"""The options of the method, one frozen dataclass per component, each field with its unit and source.

They stand here, apart from the components, because a recipe must be readable without importing torch. A component gets
its own dataclass and never the whole recipe. Sections and tables are those of the WeakSAM paper (arXiv 2402.14812);
"published code" is its repository. A field without a source is our decision.
"""

from weaksam.config.checks import require
from weaksam.config.data import DataConfig, ShapesConfig
from weaksam.config.everything import EverythingConfig
from weaksam.config.mil import DetectConfig, DropBlockConfig, MilConfig, MistConfig, OicrConfig
from weaksam.config.proposals import (
    SAM_INPUT_SIDE,
    CamConfig,
    ClassifierConfig,
    CluesConfig,
    PeaksConfig,
    PromptsConfig,
    ProposalsConfig,
    ResNetCamConfig,
    SamConfig,
    SelectiveSearchConfig,
    WeakTrConfig,
)
from weaksam.config.retraining import (
    DinoConfig,
    FasterRcnnConfig,
    PseudoLabelsConfig,
    QueryDropConfig,
    RetrainConfig,
    RetrainedDetectConfig,
    RoiDropConfig,
)
from weaksam.config.weights import Weights

__all__ = [
    "SAM_INPUT_SIDE",
    "CamConfig",
    "ClassifierConfig",
    "CluesConfig",
    "DataConfig",
    "DetectConfig",
    "DinoConfig",
    "DropBlockConfig",
    "EverythingConfig",
    "FasterRcnnConfig",
    "MilConfig",
    "MistConfig",
    "OicrConfig",
    "PeaksConfig",
    "PromptsConfig",
    "ProposalsConfig",
    "PseudoLabelsConfig",
    "QueryDropConfig",
    "ResNetCamConfig",
    "RetrainConfig",
    "RetrainedDetectConfig",
    "RoiDropConfig",
    "SamConfig",
    "SelectiveSearchConfig",
    "ShapesConfig",
    "WeakTrConfig",
    "Weights",
    "require",
]
