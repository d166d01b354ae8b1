"""Engines that attack the store: kills, power cuts, failing system calls, races, stale reads, hostile files.

Each engine is a function that tries something a number of times and returns a :class:`Result`. The tests in
``tests/faults`` run them small, ``scripts/torture.py`` runs them large. The tests run them on mutants too: the store
with one protection taken out, which an engine must catch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from faults.model import Store, StoreProblem
from faults.mutants import MUTANTS, mutate

__all__ = ["MUTANTS", "Result", "Store", "StoreProblem", "mutate"]


@dataclass
class Result:
    """What an engine has done and seen.

    Attributes:
        method: What was tried, in a few words.
        tried: How often.
        failures: What went wrong, a line each; empty is what it should be.
        figures: What else was measured, by name: "slowest save, s".
    """

    method: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
