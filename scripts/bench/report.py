"""Figures as text and as JSON, and the machine that they are of."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sqlite3
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import aims, runs
from bench.timing import Spread, spreads

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bench.processes import Crowd
    from bench.runs import Measured

_UNITS = ("s", "ms", "µs", "ns")
_PACKAGES = ("zoho_keystore", "cryptography", "filelock", "msal-extensions")
_SDKS = tuple(f"zohocrmsdk{number}_0" for number in (5, 6, 7, 8))


@dataclass(frozen=True)
class Figures:
    """All that a run has measured, on which machine, and the peers that were not installed."""

    facts: dict[str, str]
    left_out: list[str]
    measured: Measured
    crowd: Crowd
    imports: Spread
    memory: Spread

    def aims(self) -> list[aims.Aim]:
        return aims.of_sizes(self.measured) + aims.of_processes(self.crowd, self.imports, self.memory)

    def spreads(self) -> dict[str, dict[int, dict[str, Spread]]]:
        """Return the spreads by operation, number of tokens and candidate."""
        return {
            operation: {tokens: spreads(taken) for tokens, taken in by_size.items()}
            for operation, by_size in self.measured.items()
        }

    def as_text(self) -> str:
        """Return the machine, all medians, and the aims."""
        crowd = self.crowd
        parts = ["\n".join(f"{name}: {value}" for name, value in self.facts.items())]
        parts.append("Medians ± half of the distance between the quartiles; a ratio's quartiles stand in brackets.")
        if self.facts["file system"] == "tmpfs":
            parts.append("tmpfs has no disk, so figures of saves say nothing: set TMPDIR to a directory on a disk.")
        if self.left_out:
            parts.append(f"Left out, since they are not installed: {', '.join(self.left_out)}")
        for operation, by_size in self.spreads().items():
            parts.append(f"{operation}; the limit is {runs.LIMITS[operation]}\n\n{by_size_table(by_size)}")
        parts.append(
            f"{crowd.processes} processes: {crowd.per_s.median:,.0f} saves/s, bare loops "
            f"{crowd.bare_per_s.median:,.0f} saves/s; median save {duration(crowd.save.median)}, slowest "
            f"{duration(crowd.slowest_s)}"
        )
        parts.append(table(("what", "aim", "measured", "met"), [aim.row() for aim in self.aims()]))
        return "\n\n".join(parts)

    def as_json(self) -> str:
        """Return all figures; a measured one is a list of median, quartiles and number of samples."""
        judged = [
            {
                "what": aim.what,
                **({} if aim.bound is None else {"at_least" if aim.at_least else "at_most": aim.bound}),
                "unit": aim.unit,
                "measured": _plain(aim.measured),
                "met": aim.is_met,
            }
            for aim in self.aims()
        ]
        content = {
            "machine": self.facts,
            "left_out": self.left_out,
            "aims": judged,
            "limits": runs.LIMITS,
            "seconds": _plain(self.spreads()),
            "processes": _plain(self.crowd._asdict()),
            "import seconds": _plain(self.imports),
            "memory bytes": _plain(self.memory),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        return re.sub(r"\[[^][{}]*\]", lambda figures: " ".join(figures[0].split()), text) + "\n"


def _plain(value: Any) -> Any:
    """Return figures without names that JSON cannot hold, and with four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Spread):
        return [_plain(figure) for figure in value]
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return value


def facts(directory: Path) -> dict[str, str]:
    """Return what the figures of a run depend on.

    Args:
        directory: Where the stores are.
    """
    found = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "load at the start": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": _file_system(directory),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite3": sqlite3.sqlite_version,
    }
    for name in (*_PACKAGES, *_SDKS):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _file_system(path: Path) -> str:
    with suppress(OSError):
        command = ["df", "--output=fstype", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed program
        return done.stdout.split()[-1] if done.returncode == 0 else "unknown"
    return "unknown"


def duration(seconds: float) -> str:
    """Return a duration greater than 0, with three digits and its unit."""
    exponent = min(max(0, math.ceil(-math.log10(seconds) / 3)), len(_UNITS) - 1)
    value = float(f"{seconds * 1000**exponent:.3g}")
    return f"{value:g} {_UNITS[exponent]}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown whose columns are aligned."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def by_size_table(by_size: Mapping[int, Mapping[str, Spread]]) -> str:
    """Return a table of candidates over numbers of tokens; a candidate that was not measured has an empty cell."""
    names = dict.fromkeys(name for of_size in by_size.values() for name in of_size)
    rows = [[name, *(_cell(of_size.get(name)) for of_size in by_size.values())] for name in names]
    return table(["tokens", *(f"{tokens:,}" for tokens in by_size)], rows)


def _cell(found: Spread | None) -> str:
    return "" if found is None else f"{duration(found.median)} ± {(found.q3 - found.q1) / 2 / found.median:.0%}"
