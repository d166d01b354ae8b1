"""What was promised, and whether it is met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import runs, stores
from bench.timing import Spread, ratio, spread

if TYPE_CHECKING:
    from bench.processes import Crowd, Imports, Memory
    from bench.runs import Measured
    from bench.timing import Rounds

#: The unit of a ratio.
TIMES = "×"  # noqa: RUF001 - the sign is meant

_STAT_MOST = 3.0
#: "The same at every size", and room for what caches make of 100,000 tokens.
_SAME_MOST = 1.5
_FASTER_THAN_FILE_STORE = {1: 3.0, 1_000: 500.0, 10_000: 5_000.0}
_AFTER_SAVE_MOST = 1.3
_SAVE_MOST = 1.3
_SAVE_SIZES = (1, 100, 1_000, 10_000)
_SAVES_LIKE_FILE_STORE_FROM = 1_000
_CROWD_LEAST = 0.7
_SLOWEST_MOST = 20.0
_IMPORT_MOST_MS = 60.0
_MEMORY_MOST_MB = 40.0


@dataclass(frozen=True)
class Target:
    """One target, and what was measured.

    Attributes:
        what: What it is about.
        measured: The figure.
        limit: What it may be at most, or has to be at least.
        unit: Of both.
        at_least: Whether greater is better.
    """

    what: str
    measured: Spread
    limit: float
    unit: str = TIMES
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the median keeps to the limit."""
        return self.measured.median >= self.limit if self.at_least else self.measured.median <= self.limit


def times(name: str, of: Spread) -> str:
    """Return a spread of ratios or of other figures in words."""
    return f"{_figure(of.median)} {name} ({_figure(of.q1)} to {_figure(of.q3)})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"  # noqa: PLR2004 - three digits are enough


def row(target: Target) -> tuple[str, str, str, str]:
    """Return a target as it stands in the table: what, the limit, what was measured, and whether it is met."""
    bound = f"{'≥' if target.at_least else '≤'} {_figure(target.limit)} {target.unit}"
    return target.what, bound, times(target.unit, target.measured), "yes" if target.is_met else "NO"


def of_sizes(measured: Measured) -> list[Target]:
    """Judge look-ups and saves, at those sizes that were measured."""
    found = []
    for operation in (runs.FIND, runs.FIND_BY_ID):
        for tokens, taken in measured.get(operation, {}).items():
            found.append(
                Target(
                    f"{operation} to one os.stat, {tokens:,}",
                    ratio(taken[stores.OURS], taken[stores.LIMIT]),
                    _STAT_MOST,
                )
            )
        found += _same_at_every_size(operation, measured)
        for tokens, times_faster in _FASTER_THAN_FILE_STORE.items():
            taken = measured.get(operation, {}).get(tokens, {})
            if stores.FILE_STORE in taken:
                faster = ratio(taken[stores.FILE_STORE], taken[stores.OURS])
                what = f"{operation}: FileStore's to ours, {tokens:,}"
                found.append(Target(what, faster, times_faster, at_least=True))
    for tokens, taken in measured.get(runs.FIND_AFTER_SAVE, {}).items():
        slower = ratio(taken[stores.OURS], taken[stores.LIMIT])
        found.append(
            Target(f"first find after another's save to read + decrypt + parse, {tokens:,}", slower, _AFTER_SAVE_MOST)
        )
    for tokens in _SAVE_SIZES:
        taken = measured.get(runs.SAVE, {}).get(tokens, {})
        if not taken:
            continue
        slower = ratio(taken[stores.OURS], taken[stores.LIMIT])
        found.append(Target(f"save_token to encrypt + write + sync + rename + sync, {tokens:,}", slower, _SAVE_MOST))
        if tokens >= _SAVES_LIKE_FILE_STORE_FROM and stores.FILE_STORE in taken:
            slower = ratio(taken[stores.OURS], taken[stores.FILE_STORE])
            found.append(Target(f"save_token to FileStore's, which syncs nothing, {tokens:,}", slower, 1.0))
    return found


def _same_at_every_size(operation: str, measured: Measured) -> list[Target]:
    """Judge whether a look-up takes as long among many tokens as with a single one, each beside its own ``stat``."""
    sizes = measured.get(operation, {})
    if len(sizes) <= 1:
        return []
    least, most = (_by_round(sizes[tokens]) for tokens in (min(sizes), max(sizes)))
    return [Target(f"{operation}: at {max(sizes):,} to at {min(sizes):,}", ratio(most, least), _SAME_MOST)]


def _by_round(taken: dict[str, Rounds]) -> Rounds:
    ours, limit = taken[stores.OURS], taken[stores.LIMIT]
    return {number: ours[number] / limit[number] for number in ours.keys() & limit.keys()}


def of_processes(crowd: Crowd, imports: Imports, memory: Memory) -> list[Target]:
    """Judge what was measured with processes."""
    slowest = spread([crowd.slowest_s / crowd.save.median])
    return [
        Target(f"{crowd.processes} processes saving: their rate to one's", crowd.rate, _CROWD_LEAST, at_least=True),
        Target(f"{crowd.processes} processes saving: the slowest save to the median", slowest, _SLOWEST_MOST),
        Target("import zoho_keystore", scaled(imports.alone, 1e3), _IMPORT_MOST_MS, "ms"),
        Target("import of the store class, on top of the SDK's", scaled(imports.on_top, 1e3), _IMPORT_MOST_MS, "ms"),
        Target(f"{memory.tokens:,} tokens in memory", scaled(memory.kept, 1e-6), _MEMORY_MOST_MB, "MB"),
    ]


def scaled(of: Spread, factor: float) -> Spread:
    """Return a spread in another unit."""
    return Spread(of.median * factor, of.q1 * factor, of.q3 * factor, of.samples)
