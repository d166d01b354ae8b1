"""Measure several candidates by turns, so that a disturbance of the machine hits all of them alike."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: Seconds per call in each round.
Rounds = list[float]

#: The calls of a sample are prepared before its clock starts, which takes memory.
_MAX_CALLS = 5_000


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Candidate:
    """Something that is measured.

    Attributes:
        name: Its name in the tables.
        prepare: Returns the given number of calls; runs before the clock starts.
        settle: Runs after each sample, outside the clock.
    """

    name: str
    prepare: Callable[[int], Sequence[Callable[[], object]]]
    settle: Callable[[], object] = _nothing

    def sample(self, calls: int) -> float:
        """Return the seconds that one of so many calls takes."""
        prepared = self.prepare(calls)
        started_s = time.perf_counter()
        for call in prepared:
            call()
        lasted_s = time.perf_counter() - started_s
        self.settle()
        return lasted_s / calls


def again(call: Callable[[], object]) -> Callable[[int], Sequence[Callable[[], object]]]:
    """Return a ``prepare`` that repeats the same call."""
    return lambda count: [call] * count


class Budget(NamedTuple):
    """How much to measure.

    Attributes:
        rounds: How often each candidate is sampled.
        sample_s: The length of a sample of short calls; with 0 a sample is one call.
    """

    rounds: int
    sample_s: float = 0.0


class Spread(NamedTuple):
    """Median and quartiles of several samples."""

    median: float
    q1: float
    q3: float
    samples: int

    def scaled(self, factor: float) -> Spread:
        """Return the spread in another unit."""
        return Spread(self.median * factor, self.q1 * factor, self.q3 * factor, self.samples)


def spread(values: Iterable[float]) -> Spread:
    """Return the median and the quartiles of at least one value."""
    given = sorted(values)
    if len(given) == 1:
        return Spread(given[0], given[0], given[0], 1)
    q1, median, q3 = statistics.quantiles(given, n=4, method="inclusive")
    return Spread(median, q1, q3, len(given))


def spreads(taken: Mapping[str, Rounds]) -> dict[str, Spread]:
    """Return the spread of each candidate."""
    return {name: spread(rounds) for name, rounds in taken.items()}


def ratio(of: Rounds, to: Rounds) -> Spread:
    """Return the ratio of two candidates by rounds, so that a disturbed round is one of many."""
    return spread(one / other for one, other in zip(of, to, strict=True))


def interleaved(
    candidates: Sequence[Candidate], budget: Budget, *, before_each: Callable[[], object] = _nothing
) -> dict[str, Rounds]:
    """Measure candidates by turns, in another order in each round.

    Args:
        candidates: What is measured.
        budget: How much.
        before_each: Runs before each sample, outside the clock.

    Returns:
        The rounds of each candidate, by its name.
    """
    order = random.Random(len(candidates))  # noqa: S311 - no secret
    taken: dict[str, Rounds] = {candidate.name: [] for candidate in candidates}
    calls = {}
    for candidate in candidates:
        one_s = 0.0
        for _ in range(2):  # The first call may import or open something.
            before_each()
            one_s = candidate.sample(1)
        calls[candidate.name] = max(1, min(_MAX_CALLS, int(budget.sample_s / one_s)))
    for _ in range(budget.rounds):
        for candidate in order.sample(candidates, len(candidates)):
            before_each()
            taken[candidate.name].append(candidate.sample(calls[candidate.name]))
    return taken
