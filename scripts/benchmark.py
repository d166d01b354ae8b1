"""Measure the store against the least work that has to be done, the SDK's FileStore, and peers.

All are measured by turns, so that a disturbance of the machine hits all of them alike; a ratio is the median of the
rounds' ratios. A full run takes three minutes and writes docs/benchmark.json and docs/benchmark.svg; --quick takes a
minute and shows that the benchmark works. --sql measures the stores in databases instead, against bare statements on
the drivers and the SDK's DBStore, on servers that it starts itself, and writes docs/benchmark-sql.json and the tables
in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet

from bench import aims, picture, processes, report, runs, stores

_DOCS = Path(__file__).resolve().parents[1] / "docs"
_TOKENS_IN_MEMORY = 10_000

#: In the order of their colours in the picture.
_CANDIDATES = (stores.OURS, stores.LIMIT, *stores.PEERS)


def measure(directory: Path, plan: runs.Plan) -> report.Figures:
    """Run all of a plan.

    Args:
        directory: Where the stores are made.
        plan: How much.
    """
    facts, left_out, key = report.facts(directory), stores.missing_peers(), Fernet.generate_key()
    peers = tuple(name for name in stores.PEERS if name not in left_out)
    measured = runs.all_sizes(runs.Setting(directory, key, peers), plan, _tell)
    _tell(f"{plan.processes} processes saving")
    crowd = processes.crowd(
        _made(directory / "crowd"), key, processes=plan.processes, turns=plan.turns, turn_s=plan.turn_s
    )
    _tell("imports")
    imports = processes.imports(plan.imports)
    _tell("memory")
    memory = processes.memory(_made(directory / "memory"), key, tokens=_TOKENS_IN_MEMORY, rounds=plan.memory)
    return report.Figures(facts, left_out, measured, crowd, imports, memory)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _tell(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


def as_picture(figures: report.Figures) -> str:
    """Return finds and saves over the number of tokens, with their aims, as SVG."""
    panels = []
    for operation in (runs.BY_ID, runs.SAVE):
        most, up_to = aims.AT_MOST[operation]
        lines: dict[str, picture.Line] = {}
        for tokens, of_size in figures.spreads()[operation].items():
            for name, figure in of_size.items():
                lines.setdefault(name, {})[tokens] = figure
            if up_to is None or tokens <= up_to:
                lines.setdefault(picture.AIM, {})[tokens] = of_size[stores.LIMIT].scaled(most)
        note = f"limit: {runs.LIMITS[operation]}; aim: {most:g} times that"
        panels.append(picture.Panel(operation, note, lines))
    facts = figures.facts
    caption = (
        f"Medians and quartiles; both scales are logarithmic. {facts['processor']}, {facts['file system']}, "
        f"{facts['kernel']}, {facts['Python']}"
    )
    return picture.draw(panels, _CANDIDATES, caption)


def _measure_sql(directory: Path, docs: Path | None, *, is_quick: bool, is_strict: bool) -> int:
    from bench import sql  # noqa: PLC0415 - SQLAlchemy and the drivers are needed for it alone

    directory.chmod(0o755)  # The servers' user works below it.
    figures = sql.measure(directory, sql.QUICK if is_quick else sql.FULL, _tell)
    print(figures.as_text())
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "benchmark-sql.json").write_text(figures.as_json(), encoding="utf-8")
        page = (_DOCS / "benchmarks.md").read_text(encoding="utf-8")
        (docs / "benchmarks.md").write_text(figures.into_page(page), encoding="utf-8")
    return 1 if is_strict and not all(aim.is_met for aim in figures.aims()) else 0


def main() -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end in a minute, with few samples at few sizes")
    parser.add_argument("--sql", action="store_true", help="measure the stores in databases, on servers of its own")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when an aim is not met")
    parser.add_argument(
        "--docs", type=Path, metavar="DIRECTORY", help="where the files go; default: docs, and nowhere with --quick"
    )
    options = parser.parse_args()
    docs = options.docs or (None if options.quick else _DOCS)
    # The usual /tmp may be in memory, where a sync costs nothing.
    base = os.environ.get("TMPDIR", "/var/tmp")  # noqa: S108 - a private directory is made in it
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=base) as directory:
        if options.sql:
            return _measure_sql(Path(directory).resolve(), docs, is_quick=options.quick, is_strict=options.strict)
        figures = measure(Path(directory).resolve(), runs.QUICK if options.quick else runs.FULL)
    print(figures.as_text())
    if docs is not None:
        docs.mkdir(parents=True, exist_ok=True)
        (docs / "benchmark.json").write_text(figures.as_json(), encoding="utf-8")
        (docs / "benchmark.svg").write_text(as_picture(figures), encoding="utf-8")
    return 1 if options.strict and not all(aim.is_met for aim in figures.aims()) else 0


if __name__ == "__main__":
    sys.exit(main())
