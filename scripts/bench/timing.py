"""Measuring several contestants by turns, so that whatever disturbs the machine hits all of them alike."""

from __future__ import annotations

import math
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: Seconds per call, by the number of the round.
Rounds = dict[int, float]

#: No sample has more calls than that: each call is prepared before the clock starts, and takes memory.
_MOST_CALLS = 5_000


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Contestant:
    """Something that is measured.

    Attributes:
        name: What the tables call it.
        prepare: Returns so many calls; what they need is made before the clock starts.
        settle: Called after each sample, outside the clock.
    """

    name: str
    prepare: Callable[[int], Sequence[Callable[[], object]]]
    settle: Callable[[], None] = _nothing

    def sample(self, calls: int) -> float:
        """Return how long one of so many calls takes, in seconds."""
        prepared = self.prepare(calls)
        started_s = time.perf_counter()
        for call in prepared:
            call()
        lasted_s = time.perf_counter() - started_s
        self.settle()
        return lasted_s / calls


def again(call: Callable[[], object]) -> Callable[[int], Sequence[Callable[[], object]]]:
    """Return what prepares the same call as often as wanted."""
    return lambda count: [call] * count


class Budget(NamedTuple):
    """How much to measure.

    Attributes:
        rounds: How often each contestant has its turn.
        longest_s: Who would need longer than this for all of its turns has fewer of them, evenly spread.
        sample_s: How long a sample takes if one call takes less; with 0 a sample is one call.
        least: How many turns the slowest one has, too.
    """

    rounds: int
    longest_s: float
    sample_s: float = 0.0
    least: int = 3


class Spread(NamedTuple):
    """What several samples of the same thing have come to.

    Attributes:
        median: The middle one.
        q1: A quarter of them is below this.
        q3: A quarter of them is above this.
        samples: How many there are.
    """

    median: float
    q1: float
    q3: float
    samples: int


def spread(values: Iterable[float]) -> Spread:
    """Return the median and the quartiles of at least one value."""
    given = sorted(values)
    if len(given) == 1:
        return Spread(given[0], given[0], given[0], 1)
    q1, median, q3 = statistics.quantiles(given, n=4, method="inclusive")
    return Spread(median, q1, q3, len(given))


def ratio(of: Rounds, to: Rounds) -> Spread:
    """Return how many times as long one contestant takes as another one, by the rounds in which both took part."""
    return spread(of[number] / to[number] for number in of.keys() & to.keys())


def turns_every(one_s: float, budget: Budget) -> int:
    """Return in which rounds a contestant takes part: in each one, or only in every second, third and so on.

    Args:
        one_s: How long its sample takes, in seconds.
        budget: How much to measure.
    """
    wanted = math.ceil(one_s * budget.rounds / budget.longest_s)
    return max(1, min(wanted, budget.rounds // budget.least))


def calls_per_sample(one_s: float, budget: Budget) -> int:
    """Return how many calls make up a sample.

    Args:
        one_s: How long one call takes, in seconds.
        budget: How much to measure.
    """
    return max(1, min(_MOST_CALLS, int(budget.sample_s / one_s)))


def interleaved(
    contestants: Sequence[Contestant], budget: Budget, *, before_each: Callable[[], object] = _nothing
) -> dict[str, Rounds]:
    """Measure contestants by turns, in another order in each round.

    Args:
        contestants: Who is measured.
        budget: How much.
        before_each: Called before each sample, outside the clock.

    Returns:
        By the names of the contestants, what they took in the rounds in which they took part.
    """
    order = random.Random(len(contestants))  # noqa: S311 - no secret
    taken: dict[str, Rounds] = {contestant.name: {} for contestant in contestants}
    calls, every = {}, {}
    for contestant in contestants:
        before_each()
        one_s = contestant.sample(1)
        if one_s < budget.longest_s:
            # The first call may have imported or opened something.
            before_each()
            one_s = contestant.sample(1)
        calls[contestant.name] = calls_per_sample(one_s, budget)
        every[contestant.name] = turns_every(one_s * calls[contestant.name], budget)
    for number in range(budget.rounds):
        for contestant in order.sample(contestants, len(contestants)):
            if number % every[contestant.name] == 0:
                before_each()
                taken[contestant.name][number] = contestant.sample(calls[contestant.name])
    return taken


def spreads(taken: Mapping[str, Rounds]) -> dict[str, Spread]:
    """Return the median and the quartiles of each contestant."""
    return {name: spread(rounds.values()) for name, rounds in taken.items()}
