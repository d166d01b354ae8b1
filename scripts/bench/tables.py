"""Figures as text: columns that stand in line, and durations in the unit that suits them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.timing import Spread

_UNITS = ("s", "ms", "µs", "ns")


def duration(seconds: float) -> str:
    """Return a duration, which is greater than nothing, with three digits."""
    exponent = min(max(0, math.ceil(-math.log10(seconds) / 3)), len(_UNITS) - 1)
    value = float(f"{seconds * 1000**exponent:.3g}")
    return f"{value:g} {_UNITS[exponent]}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows under a head, as a table of Markdown that is read as plain text just as well."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def of_spread(found: Spread) -> str:
    """Return a median duration, and half of the distance between the quartiles in parts of it."""
    return f"{duration(found.median)} ± {(found.q3 - found.q1) / 2 / found.median:.0%}"


def by_size(spreads: Mapping[int, Mapping[str, Spread]]) -> str:
    """Return a table of contestants over numbers of tokens; where one was not measured, its cell is empty."""
    names = dict.fromkeys(name for of_size in spreads.values() for name in of_size)
    rows = [
        [name, *(of_spread(of_size[name]) if name in of_size else "" for of_size in spreads.values())] for name in names
    ]
    return table(["tokens", *(f"{tokens:,}" for tokens in spreads)], rows)
