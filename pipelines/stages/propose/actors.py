"""The workers of ``propose``: columns in and columns out, callable in a test without Ray.

    fetch (tasks)  uri -> encoded bytes, checked        PromptActor  bytes -> prompts        SegmentActor  prompts -> boxes

Encoded bytes and points travel between them; pixels and activation maps never do. On a GPU one actor is both: its memory is
shared by the two networks, and every GPU is as busy as the others.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.dataflow.rows import FETCHED, decode_row, finish_batch, guarded, use_cpu, work_batch
from pipelines.engine import logs
from pipelines.store.instances import Instance
from pipelines.store.schemas import (
    PROMPT_COLUMNS,
    PROPOSALS,
    prompts_from_columns,
    prompts_to_columns,
    proposals_to_row,
)
from weaksam.config import (
    CluesConfig,
    PromptsConfig,
    ProposalsConfig,
    SamConfig,
    SelectiveSearchConfig,
    Weights,
    require,
)
from weaksam.structures import MAP_KINDS

if TYPE_CHECKING:
    from weaksam.proposals.proposer import Proposer

PROMPTED = pa.schema([*FETCHED, *PROMPT_COLUMNS])


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How SAM is prompted, and how its masks become boxes."""

    clues: CluesConfig | None  # None: grids alone prompt it
    prompts: PromptsConfig
    sam: SamConfig
    proposals: ProposalsConfig

    def __post_init__(self) -> None:
        if self.clues is not None:
            both = (self.clues.cam.precision, self.sam.precision)
            require(
                both.count("tf32") != 1, "sam.precision", "tf32 for clues.cam.precision as well, or for neither: it is "
                "switched for a whole process, and one may hold both networks", " beside ".join(both),
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ActorSpec:
    """What an actor must know to build itself; small and picklable."""

    instance: Instance
    how: Prompting
    clue_weights: Weights  # empty where no clue source has any
    class_names: tuple[str, ...]
    threads: int
    device: str  # "cpu" or "cuda"


def prompter(how: Prompting, clue_weights: Weights, class_names: tuple[str, ...], device: str) -> Proposer:
    """Return a proposer without a SAM: its clue network, with these weights, prompts for these classes."""
    from weaksam.clues.loading import load_clues
    from weaksam.proposals.proposer import Proposer

    assert how.clues is not None
    clues = load_clues(
        replace(how.clues, weights=clue_weights),
        class_names=class_names,
        kinds=[source for source in how.prompts.sources if source in MAP_KINDS],
        device=device,
    )
    return Proposer(clues, None, prompts=how.prompts, clues_config=how.clues)


class PromptActor:
    """Holds the clue network; turns images and labels into prompts. Columns FETCHED -> PROMPTED."""

    def __init__(self, spec: ActorSpec) -> None:
        use_cpu(spec.threads, spec.device)
        self._proposer = prompter(spec.how, spec.clue_weights, spec.class_names, spec.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Find the prompts of each image of a batch."""
        return pa.Table.from_pylist([guarded(self._prompt, row, PROMPT_COLUMNS) for row in batch.to_pylist()], PROMPTED)

    def _prompt(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, **prompts_to_columns(self._proposer.prompt(decode_row(row), row["labels"]))}


class SegmentActor:
    """Holds SAM; turns images and prompts into proposals. Columns FETCHED or PROMPTED -> PROPOSALS, bad rows set aside."""

    def __init__(self, spec: ActorSpec, schema: pa.Schema = PROPOSALS) -> None:
        from weaksam.proposals.proposer import Proposer
        from weaksam.sam.load import load_sam

        use_cpu(spec.threads, spec.device)
        how = spec.how
        self._spec = spec
        self._schema = schema  # with the class names in its metadata
        self._proposer = Proposer(None, load_sam(how.sam, spec.device), prompts=how.prompts, proposals=how.proposals)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Segment each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        ahead = self._spec.device == "cuda"
        return work_batch(batch, self._spec.instance, self._schema, self._segment, self._prepare, ahead=ahead)

    def _prepare(self, row: dict[str, Any]) -> Any:
        return self._proposer.resize(decode_row(row))

    def _segment(self, row: dict[str, Any], *, ready: Callable[[], Any]) -> dict[str, Any]:
        prompts = prompts_from_columns(row) if "prompt_source" in row else []
        return proposals_to_row(row["image_id"], row["input"], self._proposer.segment(ready(), prompts))


class ProposeActor(SegmentActor):
    """Holds the clue network as well; turns images into proposals. Columns FETCHED -> PROPOSALS, bad rows set aside."""

    def __init__(self, spec: ActorSpec, schema: pa.Schema = PROPOSALS) -> None:
        super().__init__(spec, schema)
        self._prompter = prompter(spec.how, spec.clue_weights, spec.class_names, spec.device)

    def _prepare(self, row: dict[str, Any]) -> Any:
        image = decode_row(row)
        return image, self._proposer.resize(image)

    def _segment(self, row: dict[str, Any], *, ready: Callable[[], Any]) -> dict[str, Any]:
        image, resized = ready()
        prompts = self._prompter.prompt(image, row["labels"])
        return proposals_to_row(row["image_id"], row["input"], self._proposer.segment(resized, prompts))


class SearchActor:
    """Selective Search in the place of SAM, of an image in each thread. Columns FETCHED -> PROPOSALS, bad rows set aside."""

    def __init__(self, instance: Instance, config: SelectiveSearchConfig, schema: pa.Schema, threads: int) -> None:
        self._instance = instance
        self._config = config
        self._schema = schema
        self._threads = threads

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Search each image of a batch; rows with a reason go to ``_dropped`` and not on."""
        search = logs.of_image(partial(guarded, self._search, missing=()))
        with ThreadPoolExecutor(self._threads) as pool:
            return finish_batch(self._instance, list(pool.map(search, batch.to_pylist())), self._schema)

    def _search(self, row: dict[str, Any]) -> dict[str, Any]:
        from weaksam.proposals.selective_search import selective_search

        return proposals_to_row(row["image_id"], row["input"], selective_search(decode_row(row), self._config))
