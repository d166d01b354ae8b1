"""Fault injection: engines that attack the store with kills, power cuts, failing calls, races and hostile files.

An engine tries something a number of times and returns a :class:`Result`. The tests in ``tests/faults`` run the engines
small, ``scripts/torture.py`` runs them large. The tests run them on mutants too: the store with one protection taken
out, which an engine has to catch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Attempt(NamedTuple):
    """What an engine reports of one attempt.

    Attributes:
        failure: What went wrong, or None.
        figures: What to add to the figures of the result; those named "slowest …" are maxima.
        tried: How many tries it stands for.
    """

    failure: str | None = None
    figures: dict[str, float] = {}  # noqa: RUF012 - not changed
    tried: int = 1


@dataclass
class Result:
    """What an engine has done and seen.

    Attributes:
        method: What was tried, in a few words.
        tried: How often.
        failures: What went wrong, a line each; empty when the store has kept its guarantees.
        figures: What else was measured, by name: "slowest save, s".
    """

    method: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, attempt: Attempt) -> None:
        """Count an attempt."""
        self.tried += attempt.tried
        if attempt.failure:
            self.failures.append(attempt.failure)
        for name, amount in attempt.figures.items():
            old = self.figures.get(name, 0)
            self.figures[name] = max(old, amount) if name.startswith("slowest") else old + amount
