"""Measure stores in databases against bare statements on the drivers, and against the SDK's DBStore."""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet

from bench import databases, report, stores
from bench.aims import Aim
from bench.databases import PREFIX, Database
from bench.timing import Budget, Candidate, Rounds, again, interleaved, ratio, spread, spreads
from zoho_keystore import EncryptedSQLStore, TokenRecord
from zoho_keystore._keys.ring import KeyRing
from zoho_keystore._keys.sources import key_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OURS, BARE = "EncryptedSQLStore", "bare statements"
BY_ID, BY_TOKEN, SAVE = "find_token_by_id", "find_token, by refresh token", "save_token, a refresh"
OPERATIONS = (BY_ID, BY_TOKEN, SAVE)
INSERTS, IMPORTS, ROTATION = "new tokens saved a second", "tokens imported a second", "rows rotated a second"

#: What the candidate of bare statements does.
BARE_STATEMENTS = {
    BY_ID: "SELECT by an index",
    BY_TOKEN: "SELECT by an index",
    SAVE: "BEGIN, SELECT, UPDATE, COMMIT",
    INSERTS: "BEGIN, INSERT, COMMIT",
}

#: The most that a find may take, in milliseconds.
_MOST_FIND_MS = {"SQLite": 0.15, "PostgreSQL": 0.5, "MariaDB": 0.8}
#: The most that a save may take, in parts of the bare statements.
_MOST_SAVE = 2.0
#: The most that a find in the largest store may take, in parts of one in the smallest.
_MOST_GROWTH = 3.0

#: What the tables are between in docs/benchmarks.md.
_BEGIN, _END = "<!-- figures of scripts/benchmark.py --sql -->", "<!-- end of the figures -->"

#: By database, operation and number of rows, the rounds of each candidate.
Measured = dict[str, dict[str, dict[int, dict[str, Rounds]]]]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        sizes: The numbers of rows, the smallest first.
        find: The budget of each find.
        save: The budget of each save.
        slow: The budget of stores that are too slow for the others, at the largest size.
        inserts: How many new tokens are saved.
        rotated: How many rows are rotated.
    """

    sizes: tuple[int, ...]
    find: Budget
    save: Budget
    slow: Budget
    inserts: int
    rotated: int


FULL = Plan((1_000, 1_000_000), Budget(101, 0.005), Budget(201), Budget(7), 500, 20_000)
QUICK = Plan((100, 5_000), Budget(9, 0.001), Budget(9), Budget(3), 30, 200)


@dataclass(frozen=True)
class Figures:
    """All that a run has measured, on which machine and servers, and the databases that were not installed."""

    facts: dict[str, str]
    left_out: dict[str, str]
    measured: Measured = field(default_factory=dict)
    rates: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def aims(self) -> list[Aim]:
        found = []
        for name, by_operation in self.measured.items():
            sizes = sorted(by_operation[BY_ID])
            for operation in (BY_ID, BY_TOKEN):
                for rows in sizes:
                    taken = spread(by_operation[operation][rows][OURS]).scaled(1e3)
                    found.append(Aim(f"{name}: {operation}, {rows:,} rows", taken, _MOST_FIND_MS[name], "ms"))
                first, last = (by_operation[operation][rows][OURS] for rows in (sizes[0], sizes[-1]))
                what = f"{name}: {operation}, {sizes[-1]:,} rows to {sizes[0]:,}"
                found.append(Aim(what, ratio(last, first), _MOST_GROWTH))
            for rows in sizes:
                taken = ratio(by_operation[SAVE][rows][OURS], by_operation[SAVE][rows][BARE])
                found.append(Aim(f"{name}: {SAVE}, {rows:,} rows: to the bare statements", taken, _MOST_SAVE))
        return found

    def tables(self) -> str:
        """Return the figures as tables of Markdown."""
        parts = []
        sizes = sorted({rows for of_one in self.measured.values() for rows in of_one[BY_ID]})
        rows = [
            [operation, name, candidate, *(_duration(by_rows.get(size, {}).get(candidate)) for size in sizes)]
            for name, by_operation in self.measured.items()
            for operation, by_rows in by_operation.items()
            for candidate in dict.fromkeys(one for taken in by_rows.values() for one in taken)
        ]
        rows.sort(key=lambda row: OPERATIONS.index(row[0]))
        parts.append(report.table(["operation", "database", "store", *(f"{size:,} rows" for size in sizes)], rows))
        rows = [
            [rate, name, candidate, f"{figure:,.0f}"]
            for name, by_rate in self.rates.items()
            for rate, by_candidate in by_rate.items()
            for candidate, figure in by_candidate.items()
        ]
        rows.sort(key=lambda row: (INSERTS, IMPORTS, ROTATION).index(row[0]))
        parts.append(report.table(["rate", "database", "store", "a second"], rows))
        return "\n\n".join(parts)

    def as_text(self) -> str:
        """Return the machine, all medians, and the aims."""
        parts = ["\n".join(f"{name}: {value}" for name, value in self.facts.items())]
        if self.facts["file system"] == "tmpfs":
            parts.append("tmpfs has no disk, so figures of saves say nothing: set TMPDIR to a directory on a disk.")
        parts += [f"{name} was left out: {command}" for name, command in self.left_out.items()]
        parts += ["Medians. Bare statements: " + "; ".join(f"{what}: {it}" for what, it in BARE_STATEMENTS.items())]
        parts += [self.tables(), report.table(("what", "aim", "measured", "met"), [aim.row() for aim in self.aims()])]
        return "\n\n".join(parts)

    def into_page(self, page: str) -> str:
        """Return a page of the documentation with these figures in the place of older ones."""
        facts = self.facts
        versions = ", ".join(facts[name] for name in self.measured)
        measured = (
            f"Medians on {facts['processor']}, {facts['file system']}, {facts['kernel']}, {facts['Python']}, "
            f"load at the start {facts['load at the start']}; {versions}."
        )
        before, begin, rest = page.partition(_BEGIN)
        _, end, after = rest.partition(_END)
        return "\n\n".join([before + begin, measured, self.tables(), end + after])

    def as_json(self) -> str:
        """Return all figures; a measured one is a list of median, quartiles and number of samples."""
        seconds = {
            name: {
                operation: {
                    str(rows): {one: _plain(of) for one, of in spreads(taken).items()} for rows, taken in sizes.items()
                }
                for operation, sizes in by_operation.items()
            }
            for name, by_operation in self.measured.items()
        }
        aims = [
            {
                "what": aim.what,
                "at_most": aim.bound,
                "unit": aim.unit,
                "measured": _plain(aim.measured),
                "met": aim.is_met,
            }
            for aim in self.aims()
        ]
        content = {
            "machine": self.facts,
            "left_out": self.left_out,
            "aims": aims,
            "seconds": seconds,
            "rates": self.rates,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False)
        return re.sub(r"\[[^][{}]*\]", lambda figures: " ".join(figures[0].split()), text) + "\n"


def _plain(found: Any) -> list[float]:
    return [float(f"{figure:.4g}") for figure in found]


def _duration(rounds: Rounds | None) -> str:
    return report.duration(spread(rounds).median) if rounds else ""


def measure(directory: Path, plan: Plan, tell: Callable[[str], None]) -> Figures:
    """Measure all databases that are here.

    Args:
        directory: Where their data are made.
        plan: How much.
        tell: Called with what is measured next.
    """
    figures = Figures(report.facts(directory), databases.missing())
    for kind in databases.DATABASES:
        if kind.name in figures.left_out:
            continue
        tell(f"{kind.name}: starting")
        own = Path(tempfile.mkdtemp(dir=directory))
        own.chmod(0o755)  # The server's user works below it.
        with closing(kind(own)) as database:
            figures.facts[kind.name] = database.version
            figures.measured[kind.name] = dict(_operations(database, plan, partial(_told, tell, kind.name)))
            figures.rates[kind.name] = _rates(database, plan, partial(_told, tell, kind.name), own)
    return figures


def _told(tell: Callable[[str], None], name: str, what: str) -> None:
    tell(f"{name}: {what}")


def _operations(
    database: Database, plan: Plan, tell: Callable[[str], None]
) -> Iterator[tuple[str, dict[int, dict[str, Rounds]]]]:
    taken: dict[str, dict[int, dict[str, Rounds]]] = {operation: {} for operation in OPERATIONS}
    smallest = plan.sizes[0]
    key = Fernet.generate_key()
    with closing(EncryptedSQLStore(database.url, key=key, prefix=PREFIX)) as store:
        store._keystore.import_records([_record(number) for number in range(1, smallest + 1)])
        ours = stores.SDKStore(OURS, Path(), store)
        filled = 0
        for rows in plan.sizes:
            tell(f"{rows:,} rows")
            if rows > smallest + filled:
                database.fill(rows - smallest - filled)
                filled = rows - smallest
            peers = {name: stores.SDKStore(name, Path(), peer) for name, peer in database.peers().items()}
            database.fill_peers(rows)
            numbers = count()
            for operation in OPERATIONS:
                tell(f"{rows:,} rows: {operation}")
                # The others have as many rows as ours, and are asked for the last one.
                candidates = {
                    OURS: _calls(ours, operation, smallest, numbers),
                    BARE: _bare_calls(database, operation, smallest),
                }
                others = {name: _calls(peer, operation, rows, numbers) for name, peer in peers.items()}
                is_slow = rows > stores.MAX_FOR_OTHERS
                if not is_slow:
                    candidates |= others
                budget = plan.save if operation == SAVE else plan.find
                taken[operation][rows] = interleaved(
                    [Candidate(name, calls) for name, calls in candidates.items()], budget
                )
                if is_slow and others:
                    slow = [Candidate(name, calls) for name, calls in others.items()]
                    taken[operation][rows] |= interleaved(slow, plan.slow)
    database.reset()
    yield from taken.items()


def _calls(store: stores.SDKStore, operation: str, place: int, numbers: Iterator[int]) -> Any:
    if operation == BY_ID:
        return again(store.finder_by_id(place))
    if operation == BY_TOKEN:
        return lambda calls: [store.finder(stores.new_token(place)) for _ in range(calls)]
    return lambda calls: [store.saver(place, stores.secret("new", next(numbers))) for _ in range(calls)]


def _bare_calls(database: Database, operation: str, place: int) -> Any:
    if operation == SAVE:
        return again(partial(database.save, place))
    return again(database.finder("id" if operation == BY_ID else "refresh_token", place))


def _rates(database: Database, plan: Plan, tell: Callable[[str], None], directory: Path) -> dict[str, dict[str, float]]:
    tell("inserts, imports and a rotation")
    ring = directory / "keys"
    ring.write_bytes(Fernet.generate_key() + b"\n")
    ring.chmod(0o600)
    spec = f"file:{ring}"
    peers = database.peers()
    database.fill_peers(1)
    with closing(EncryptedSQLStore(database.url, key=spec, prefix=PREFIX)) as store:
        new = [partial(store.save_token, stores.new_token(-number)) for number in range(1, plan.inserts + 1)]
        inserts = {OURS: _rate(new)}
        database.make_copies()
        inserts[BARE] = _rate([partial(database.insert, place) for place in range(1, plan.inserts + 1)])
        for name, peer in peers.items():
            # A row fewer: DBStore gives the next id by comparing texts, and fails at the 11th.
            few = [partial(peer.save_token, stores.new_token(-number)) for number in range(1, 9)]
            inserts[name] = _rate(few)
        records = [_record(number) for number in range(1, plan.rotated + 1)]
        started_s = perf_counter()
        store._keystore.import_records(records)
        imported = len(records) / (perf_counter() - started_s)
        source: Any = key_source(spec)
        source.add(Fernet.generate_key())
        storage: Any = store._keystore._storage
        started_s = perf_counter()
        storage.reencrypt(KeyRing(source))
        rotated = (plan.rotated + plan.inserts) / (perf_counter() - started_s)
    database.reset()
    return {INSERTS: inserts, IMPORTS: {OURS: imported}, ROTATION: {OURS: rotated}}


def _rate(calls: Sequence[Callable[[], object]]) -> float:
    started_s = perf_counter()
    for call in calls:
        call()
    return len(calls) / (perf_counter() - started_s)


def _record(number: int) -> TokenRecord:
    given: dict[str, Any] = dict(stores.fields(number))
    return TokenRecord(**given)
