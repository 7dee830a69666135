"""The options of the method, one frozen dataclass per component, each field with its unit and source.

There is a file for each section of a recipe. They stand here, apart from the components, because a recipe must be readable
without importing torch. A component gets its own dataclass and never the whole recipe, and a message names an option as it is
declared: where it stands in a recipe, the recipe adds. Sections and tables are those of the WeakSAM paper (arXiv 2402.14812);
"published code" is its repository. A field without a source is our decision.
"""

from weaksam.config.checks import require
from weaksam.config.choices import Member
from weaksam.config.classifier import ClassifierConfig
from weaksam.config.clip import AffinityConfig, ClipConfig, PromptLayoutConfig, PromptTrainingConfig, SeedConfig
from weaksam.config.clues import (
    CamConfig,
    ClipEsAffinityConfig,
    ClipEsConfig,
    ClipEsNamesConfig,
    ClueNetworkConfig,
    CluesConfig,
    ClueSourceConfig,
    LiteCamConfig,
    NoCluesConfig,
    ResNetCamConfig,
    WeakTrConfig,
)
from weaksam.config.data import DataConfig, ShapesConfig
from weaksam.config.detect import DetectConfig, RetrainedDetectConfig
from weaksam.config.everything import EverythingConfig
from weaksam.config.mask_queries import MaskQueriesConfig
from weaksam.config.mil import DropBlockConfig, MilConfig, MilDetectorConfig, MistConfig, OicrConfig
from weaksam.config.prompts import ClustersConfig, PeaksConfig, PromptsConfig
from weaksam.config.proposals import ProposalsConfig
from weaksam.config.pseudo_labels import PseudoLabelsConfig
from weaksam.config.retrain import (
    DinoConfig,
    FasterRcnnConfig,
    Mask2FormerConfig,
    MaskRcnnConfig,
    QueryDropConfig,
    RetrainConfig,
    RetrainedDetectorConfig,
    RoiDropConfig,
)
from weaksam.config.sam import SamConfig
from weaksam.config.segment import SegmentConfig
from weaksam.config.segmenter import (
    DeepLabConfig,
    Mask2FormerSegmenterConfig,
    PredictMapsConfig,
    SegmenterConfig,
    SegmenterNetworkConfig,
)
from weaksam.config.selective_search import SelectiveSearchConfig
from weaksam.config.weights import Weights, WeightsConfig

__all__ = [
    "AffinityConfig",
    "CamConfig",
    "ClassifierConfig",
    "ClipConfig",
    "ClipEsAffinityConfig",
    "ClipEsConfig",
    "ClipEsNamesConfig",
    "ClueNetworkConfig",
    "ClueSourceConfig",
    "CluesConfig",
    "ClustersConfig",
    "DataConfig",
    "DeepLabConfig",
    "DetectConfig",
    "DinoConfig",
    "DropBlockConfig",
    "EverythingConfig",
    "FasterRcnnConfig",
    "LiteCamConfig",
    "Mask2FormerConfig",
    "Mask2FormerSegmenterConfig",
    "MaskQueriesConfig",
    "MaskRcnnConfig",
    "Member",
    "MilConfig",
    "MilDetectorConfig",
    "MistConfig",
    "NoCluesConfig",
    "OicrConfig",
    "PeaksConfig",
    "PredictMapsConfig",
    "PromptLayoutConfig",
    "PromptTrainingConfig",
    "PromptsConfig",
    "ProposalsConfig",
    "PseudoLabelsConfig",
    "QueryDropConfig",
    "ResNetCamConfig",
    "RetrainConfig",
    "RetrainedDetectConfig",
    "RetrainedDetectorConfig",
    "RoiDropConfig",
    "SamConfig",
    "SeedConfig",
    "SegmentConfig",
    "SegmenterConfig",
    "SegmenterNetworkConfig",
    "SelectiveSearchConfig",
    "ShapesConfig",
    "WeakTrConfig",
    "Weights",
    "WeightsConfig",
    "require",
]
