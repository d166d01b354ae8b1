"""The aims of the project, and whether they are met."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import runs, stores
from bench.timing import Spread, ratio, spread

if TYPE_CHECKING:
    from bench.processes import Crowd
    from bench.runs import Measured

TIMES = "×"  # noqa: RUF001 - the sign is meant

#: The most that an operation may take in parts of its limit; up to how many tokens, None for all.
AT_MOST: dict[str, tuple[float, int | None]] = {
    runs.BY_ID: (3.5, None),
    runs.BY_ID_FRESH: (6.0, None),
    runs.FIND_NEW: (8.0, None),
    runs.FIRST_FIND: (2.0, None),
    runs.SAVE: (1.5, 1_000),
}
_FASTER_THAN_FILE_STORE_FROM = 1_000
_CROWD_LEAST = 0.8
_SLOWEST_MOST_S = 2.0
_IMPORT_MOST_MS = 60.0
_MEMORY_MOST_MB = 40.0


@dataclass(frozen=True)
class Aim:
    """A figure, and the bound that it has to keep.

    Attributes:
        what: What was measured.
        measured: The figure.
        bound: The most that it may be, or the least; None for a figure that is shown beside others.
        unit: The unit of both.
        at_least: Whether the bound is the least.
    """

    what: str
    measured: Spread
    bound: float | None
    unit: str = TIMES
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the median keeps the bound."""
        median = self.measured.median
        return self.bound is None or (median >= self.bound if self.at_least else median <= self.bound)

    def row(self) -> tuple[str, str, str, str]:
        """Return the cells of a table: what, aim, measured, met."""
        figures = [_figure(value) for value in self.measured[:3]]
        measured = f"{figures[0]} {self.unit} ({figures[1]} to {figures[2]})"
        if self.bound is None:
            return self.what, "", measured, ""
        aim = f"{'≥' if self.at_least else '≤'} {_figure(self.bound)} {self.unit}"
        return self.what, aim, measured, "yes" if self.is_met else "NO"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"  # noqa: PLR2004 - three digits


def of_sizes(measured: Measured) -> list[Aim]:
    """Judge finds and saves at the sizes that were measured."""
    found = []
    for operation, by_size in measured.items():
        most, up_to = AT_MOST.get(operation, (None, None))
        for tokens, taken in by_size.items():
            is_judged = up_to is None or tokens <= up_to
            what = f"{operation}, {tokens:,} stored: to {runs.LIMITS[operation]}"
            found.append(Aim(what, ratio(taken[stores.OURS], taken[stores.LIMIT]), most if is_judged else None))
            if operation in (runs.BY_ID, runs.SAVE) and stores.FILE_STORE in taken:
                faster = ratio(taken[stores.FILE_STORE], taken[stores.OURS])
                is_judged = operation == runs.SAVE and tokens >= _FASTER_THAN_FILE_STORE_FROM
                what = f"{operation}, {tokens:,} stored: FileStore's to ours"
                found.append(Aim(what, faster, 1.0 if is_judged else None, at_least=True))
    return found


def of_processes(crowd: Crowd, imports: Spread, memory: Spread) -> list[Aim]:
    """Judge what was measured with processes."""
    who = f"{crowd.processes} processes saving"
    return [
        Aim(f"{who}: their rate to that of bare loops", crowd.share, _CROWD_LEAST, at_least=True),
        Aim(f"{who}: the slowest save", spread([crowd.slowest_s]), _SLOWEST_MOST_S, "s"),
        Aim("import zoho_keystore", imports.scaled(1e3), _IMPORT_MOST_MS, "ms"),
        Aim("10,000 tokens in memory", memory.scaled(1e-6), _MEMORY_MOST_MB, "MB"),
    ]
