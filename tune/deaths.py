"""Whether the death of a trial's process counts against the trial, or its node was taken away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from enum import Enum

# Between the death of a process and Ray's word on its node: Ray needs about 15 s to miss a node that did not say good-bye.
PATIENCE_S = 30.0


class Verdict(Enum):
    """Of a death."""

    LOST_NODE = "its node was lost"
    OWN = "its process died on a node that lives on"


@dataclass(frozen=True, kw_only=True)
class _Death:
    trial: str
    node: str  # empty = it died before it could say
    at: float


class Deaths:
    """Deaths of trials' processes, each of them judged once it is known what became of the node.

    Trials start again at once; what is judged later is only whether that was one of the few times that they may. Moments are in
    seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._open: list[_Death] = []
        self._own: Counter[str] = Counter()
        self._seen: set[str] = set()  # nodes
        self._lost_at: list[float] = []  # when nodes were missed first

    def died(self, trial: str, node: str, now: float) -> None:
        """Note that the process of a trial died on a node, empty if it did not come so far as to tell where it was."""
        self._open.append(_Death(trial=trial, node=node, at=now))

    def got_further(self, trial: str) -> None:
        """Forget the deaths of a trial that count: it has been further than ever since."""
        del self._own[trial]

    def judge(self, alive: Set[str], now: float) -> list[tuple[str, Verdict, int]]:
        """Return trial, verdict and how many of its deaths count so far, of each death that can be judged by now.

        Args:
            alive: nodes of the cluster.
            now: this moment.
        """
        judged, still_open = list[tuple[str, Verdict, int]](), list[_Death]()
        self._lost_at += [now] * len(self._seen - alive)
        self._seen = set(alive)
        for death in self._open:
            if self._was_lost(death, alive):
                judged.append((death.trial, Verdict.LOST_NODE, self._own[death.trial]))
            elif now - death.at >= PATIENCE_S:
                self._own[death.trial] += 1
                judged.append((death.trial, Verdict.OWN, self._own[death.trial]))
            else:
                still_open.append(death)
        self._open = still_open
        return judged

    def _was_lost(self, death: _Death, alive: Set[str]) -> bool:
        if death.node:
            return death.node not in alive
        return any(abs(at - death.at) < PATIENCE_S for at in self._lost_at)
