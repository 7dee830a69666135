"""An export format: a line of numbers for each proposal."""

from __future__ import annotations

from pipelines.exchange.content import SplitProposals
from pipelines.exchange.export import Export, Target
from pipelines.store.files import write_bytes


def write_lines(content: SplitProposals, target: Target) -> str:
    """Write image id and box."""
    boxes = zip(content.of.ids, content.boxes_xyxy, strict=True)
    lines = [f"{image_id} {box.tolist()}\n" for image_id, of_image in boxes for box in of_image]
    write_bytes(target.out, "".join(lines).encode())
    return ""


PROPOSALS = Export(write=write_lines)
