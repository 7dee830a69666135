"""What an instance ``import.NAME`` holds: proposals of other people, or true boxes as pseudo labels."""

from __future__ import annotations

from typing import Any

from pipelines.engine.product import Product
from pipelines.products.proposals import ProposalTable
from pipelines.products.pseudo_labels import PseudoLabelTable
from pipelines.store.instances import Instance

_KINDS = {kind.__name__: kind for kind in (ProposalTable, PseudoLabelTable)}


def imported(instance: Instance) -> Product[Any]:
    """Return what an import left behind; its plan names the kind."""
    plan = instance.plan() or {}
    return _KINDS[plan.get("product", ProposalTable.__name__)](instance)
