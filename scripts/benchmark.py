"""How fast the store is: against the least that has to be done, the SDK's FileStore, and peers that users know.

All are measured by turns, so that what disturbs the machine hits all of them alike; a ratio is the median of the
rounds' ratios. A full run takes about ten minutes, and writes ``docs/benchmark.json`` and ``docs/benchmark.svg``;
``--quick`` only shows that it works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet

from bench import machine, picture, processes, runs, stores, tables, targets
from bench.timing import spreads

if TYPE_CHECKING:
    from bench.processes import Crowd, Imports, Memory
    from bench.runs import Measured
    from bench.targets import Target
    from bench.timing import Spread

_DOCS = Path(__file__).resolve().parents[1] / "docs"
_TOKENS_IN_MEMORY = 10_000

#: What the contestant that is called the limit does.
_LIMITS = {
    runs.FIND: "one os.stat",
    runs.FIND_MIDDLE: "one os.stat",
    runs.FIND_BY_ID: "one os.stat",
    runs.FIND_ANEW: "one os.stat",
    runs.FIND_AFTER_SAVE: "read + decrypt + parse",
    runs.SAVE: "encrypt + write + sync + rename + sync",
}
_COLOURED = (stores.OURS, stores.LIMIT, stores.FILE_STORE, stores.SQLITE, stores.MSAL, stores.CRYPTFILE)


@dataclass(frozen=True)
class Figures:
    """All that a run has measured.

    Attributes:
        facts: What it was measured on.
        left_out: The peers that are not installed.
        measured: Look-ups and saves.
        crowd: Processes that save at once.
        imports: Imports.
        memory: Memory.
    """

    facts: dict[str, str]
    left_out: list[str]
    measured: Measured
    crowd: Crowd
    imports: Imports
    memory: Memory

    def targets(self) -> list[Target]:
        """Return all targets, judged."""
        return targets.of_sizes(self.measured) + targets.of_processes(self.crowd, self.imports, self.memory)

    def spreads(self) -> dict[str, dict[int, dict[str, Spread]]]:
        """Return the medians and quartiles by operation, number of tokens and contestant."""
        return {
            operation: {tokens: spreads(taken) for tokens, taken in by_size.items()}
            for operation, by_size in self.measured.items()
        }


def measure(directory: Path, plan: runs.Plan) -> Figures:
    """Run it all.

    Args:
        directory: Where the stores are to be.
        plan: How much.
    """
    facts = machine.facts(directory)
    left_out = runs.missing_peers()
    peers = tuple(name for name in runs.PEERS if name not in left_out)
    key = Fernet.generate_key()
    measured = runs.all_sizes(runs.Setting(directory, key, peers), plan, _tell)
    places = [directory / name for name in ("crowd", "memory")]
    for place in places:
        place.mkdir()
    _tell(f"{plan.processes} processes saving")
    crowd = processes.crowd(places[0], key, processes=plan.processes, turns=plan.turns, turn_s=plan.turn_s)
    _tell("imports")
    imports = processes.imports(plan.imports)
    _tell("memory")
    memory = processes.memory(places[1], key, tokens=_TOKENS_IN_MEMORY, rounds=plan.memory)
    return Figures(facts, left_out, measured, crowd, imports, memory)


def _tell(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


def report(figures: Figures) -> str:
    """Return the figures as text: the machine, all medians, and the targets."""
    parts = ["\n".join(f"{name}: {value}" for name, value in figures.facts.items())]
    parts.append("Medians ± half of the distance between the quartiles; a ratio's quartiles stand in brackets.")
    if figures.facts["file system"] in machine.IN_MEMORY:
        parts.append("This file system has no disk, so what is said of saves means nothing: set TMPDIR to another one.")
    if figures.left_out:
        parts.append(f"Left out, since they are not installed: {', '.join(figures.left_out)}")
    for operation, by_size in figures.spreads().items():
        parts.append(f"{operation}; the limit is {_LIMITS[operation]}\n\n{tables.by_size(by_size)}")
    crowd, imports, memory = figures.crowd, figures.imports, figures.memory
    parts.append(
        f"{crowd.processes} processes: {crowd.together_per_s.median:,.0f} saves/s, one alone "
        f"{crowd.alone_per_s.median:,.0f} saves/s; their median save took {tables.duration(crowd.save.median)}, the "
        f"slowest {tables.duration(crowd.slowest_s)}\n"
        f"the limit of these, under flock: {crowd.limit_together_per_s.median:,.0f} saves/s, "
        f"{crowd.limit_rate.median:.2f} × as many as one alone\n"  # noqa: RUF001 - the sign is meant
        f"imports: the SDK's own {tables.duration(imports.sdk.median)}, ours alone "
        f"{tables.duration(imports.alone.median)}, on top of the SDK's {tables.duration(imports.on_top.median)}\n"
        f"{memory.tokens:,} tokens: {memory.kept.median / 1e6:.1f} MB, and {memory.peak.median / 1e6:.1f} MB at most "
        "while they are read"
    )
    head = ("target", "limit", "measured", "met")
    parts.append(tables.table(head, [targets.row(target) for target in figures.targets()]))
    return "\n\n".join(parts)


def as_json(figures: Figures) -> str:
    """Return all figures as JSON; durations are in seconds and memory is in bytes."""
    judged = [
        {
            "what": target.what,
            "at_least" if target.at_least else "at_most": target.limit,
            "unit": target.unit,
            **_plain(target.measured),
            "met": target.is_met,
        }
        for target in figures.targets()
    ]
    content: dict[str, Any] = {
        "machine": figures.facts,
        "left_out": figures.left_out,
        "targets": judged,
        "limits": _LIMITS,
        "seconds": {
            operation: {
                str(tokens): {name: _plain(found) for name, found in of_size.items()}
                for tokens, of_size in by_size.items()
            }
            for operation, by_size in figures.spreads().items()
        },
        "processes": _plain(figures.crowd),
        "imports": _plain(figures.imports),
        "memory": _plain(figures.memory),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _plain(figures: Any) -> Any:
    """Return a named tuple of figures, and those inside it, as dicts, with no more digits than were measured."""
    if isinstance(figures, float):
        return float(f"{figures:.4g}")
    if hasattr(figures, "_asdict"):
        return {name: _plain(value) for name, value in figures._asdict().items()}
    return figures


def as_picture(figures: Figures) -> str:
    """Return finds and saves over the number of tokens, as SVG."""
    found = figures.spreads()
    panels = []
    for operation in (runs.FIND, runs.SAVE):
        lines: dict[str, picture.Line] = {}
        for tokens, of_size in found[operation].items():
            for name, figure in of_size.items():
                lines.setdefault(name, {})[tokens] = figure
        panels.append(picture.Panel(operation, f"limit: {_LIMITS[operation]}", lines))
    facts = figures.facts
    caption = (
        f"Medians and quartiles; both scales are logarithmic. {facts['processor']}, {facts['file system']}, "
        f"{facts['kernel']}, {facts['Python']}"
    )
    return picture.draw(panels, _COLOURED, caption)


def main() -> int:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end in a minute, with few samples at few sizes")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a target is not met")
    parser.add_argument(
        "--docs", type=Path, metavar="FOLDER", help="where the files go; default: docs, and nowhere with --quick"
    )
    options = parser.parse_args()
    docs = options.docs or (None if options.quick else _DOCS)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=machine.folder_on_a_disk()) as directory:
        figures = measure(Path(directory), runs.QUICK if options.quick else runs.FULL)
    print(report(figures))
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "benchmark.json").write_text(as_json(figures), encoding="utf-8")
        (docs / "benchmark.svg").write_text(as_picture(figures), encoding="utf-8")
    return 1 if options.strict and not all(target.is_met for target in figures.targets()) else 0


if __name__ == "__main__":
    sys.exit(main())
