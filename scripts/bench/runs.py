"""What is measured, at which numbers of tokens, and how often."""

from __future__ import annotations

import math
import os
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from bench import limits, processes, stores
from bench.timing import Budget, Candidate, Rounds, again, interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.stores import SDKStore, Store

BY_ID = "find_token_by_id"
BY_ID_FRESH = "find_token_by_id, within 2 s of a save"
FIND_NEW = "find_token, a token made just then"
FIND_FILLED = "find_token, a token that was filled before"
FIRST_FIND = "first find after another process's save"
SAVE = "save_token"

#: What the candidate "limit" does.
LIMITS = {
    BY_ID: "os.stat",
    BY_ID_FRESH: "os.stat",
    FIND_NEW: "os.stat",
    FIND_FILLED: "os.stat",
    FIRST_FIND: "read + decrypt + parse",
    SAVE: "encrypt + write + fsync + rename + fsync",
}

#: By operation and number of tokens, the rounds of each candidate.
Measured = dict[str, dict[int, dict[str, Rounds]]]

#: A save is repeated when it is older than this, so that the file has never rested for 2 s.
_FRESH_S = 1.0


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        find_sizes: The numbers of tokens for finds in a file at rest.
        save_sizes: Those for saves, and for finds after saves.
        find: The budget of each find.
        save: The budget of each save, and of each find after another process's save.
        processes: How many processes save at once.
        turns: How often they do.
        turn_s: For how many seconds.
        imports: How often imports are measured.
        memory: How often memory is measured.
    """

    find_sizes: tuple[int, ...]
    save_sizes: tuple[int, ...]
    find: Budget
    save: Budget
    processes: int
    turns: int
    turn_s: float
    imports: int
    memory: int


FULL = Plan(
    find_sizes=(1, 10, 100, 1_000, 10_000, 100_000),
    save_sizes=(1, 10, 100, 1_000, 10_000),
    find=Budget(rounds=61, sample_s=0.005),
    save=Budget(rounds=101),
    processes=24,
    turns=5,
    turn_s=4.0,
    imports=21,
    memory=5,
)
QUICK = Plan(
    find_sizes=(1, 1_000),
    save_sizes=(1, 1_000),
    find=Budget(rounds=9, sample_s=0.001),
    save=Budget(rounds=9),
    processes=24,
    turns=1,
    turn_s=0.7,
    imports=3,
    memory=1,
)


@dataclass(frozen=True)
class Setting:
    """Where the stores are made, the key of ours, and the names of the peers."""

    directory: Path
    key: bytes
    peers: tuple[str, ...]

    @contextmanager
    def ours(self, tokens: int, *, at_rest: bool = False) -> Iterator[SDKStore]:
        """Make our store of so many tokens, in a directory of its own."""
        with (
            tempfile.TemporaryDirectory(dir=self.directory) as directory,
            closing(stores.ours(Path(directory), tokens, self.key, at_rest=at_rest)) as store,
        ):
            yield store

    @contextmanager
    def others(self, tokens: int) -> Iterator[list[Store]]:
        """Make the stores of those peers that can hold so many tokens."""
        names = [name for name in self.peers if tokens <= stores.MAX_FOR_OTHERS or name == stores.SQLITE]
        with tempfile.TemporaryDirectory(dir=self.directory) as directory, ExitStack() as stack:
            yield [stack.enter_context(closing(stores.PEERS[name](Path(directory), tokens))) for name in names]


def finds(setting: Setting, tokens: int, budget: Budget) -> Iterator[tuple[str, dict[str, Rounds]]]:
    """Look for the token that was added last, in a file at rest, beside one ``os.stat`` of it."""
    with setting.others(tokens) as others, setting.ours(tokens, at_rest=True) as ours:
        limit = Candidate(stores.LIMIT, again(partial(os.stat, str(ours.path))))
        every: list[Store] = [ours, *others]
        sdk = [store for store in every if isinstance(store, stores.SDKStore)]
        by_id = [Candidate(store.name, again(store.finder_by_id(tokens))) for store in every]
        filled = [Candidate(store.name, again(store.finder(stores.filled_token(tokens)))) for store in sdk]
        new = [Candidate(store.name, partial(_finds_of_new, store, tokens)) for store in sdk]
        for operation, candidates in ((BY_ID, by_id), (FIND_NEW, new), (FIND_FILLED, filled)):
            yield operation, interleaved([limit, *candidates], budget)


def _finds_of_new(store: SDKStore, number: int, calls: int) -> list[Callable[[], object]]:
    return [store.finder(stores.new_token(number)) for _ in range(calls)]


def finds_within_2s(setting: Setting, tokens: int, budget: Budget) -> dict[str, Rounds]:
    """Look for a token by its id while the store's own last save is less than 2 s old."""
    with setting.ours(tokens) as ours:
        find = ours.finder_by_id(tokens)
        saved_s = -math.inf

        def save_if_old() -> None:
            nonlocal saved_s
            if time.monotonic() - saved_s > _FRESH_S:
                ours.saver(1, stores.secret("fresh", time.monotonic_ns()))()
                find()
                saved_s = time.monotonic()

        limit = Candidate(stores.LIMIT, again(partial(os.stat, str(ours.path))))
        return interleaved([limit, Candidate(stores.OURS, again(find))], budget, before_each=save_if_old)


def first_finds(setting: Setting, tokens: int, budget: Budget) -> dict[str, Rounds]:
    """Look for a token after another process's save, beside reading, decrypting and parsing the same bytes."""
    with setting.ours(tokens) as ours, processes.Saver(ours.path, setting.key, 1) as saver:
        limit = partial(limits.read, ours.path, Fernet(setting.key))
        find = ours.finder(stores.filled_token((tokens + 1) // 2))
        candidates = [Candidate(stores.LIMIT, again(limit)), Candidate(stores.OURS, again(find))]
        return interleaved(candidates, budget, before_each=saver.save)


def saves(setting: Setting, tokens: int, budget: Budget) -> dict[str, Rounds]:
    """Save the token in the middle, beside a durable write of the same bytes."""
    middle, fernet = (tokens + 1) // 2, Fernet(setting.key)
    with setting.others(tokens) as others, setting.ours(tokens) as ours:
        payload = fernet.decrypt(ours.path.read_bytes())
        path = ours.path.with_name("limit")
        limit = Candidate(stores.LIMIT, again(partial(limits.write, path, fernet, payload)), _syncing(path))
        every: Sequence[Store] = [ours, *others]
        savers = [
            Candidate(store.name, partial(_saves, store, middle, count()), _syncing(store.path)) for store in every
        ]
        return interleaved([limit, *savers], budget)


def _saves(store: Store, number: int, numbers: Iterator[int], calls: int) -> list[Callable[[], object]]:
    return [store.saver(number, stores.secret("new", next(numbers))) for _ in range(calls)]


def _syncing(path: Path) -> Callable[[], None]:
    """Return what syncs a store that does not sync itself: else the next candidate's sync would pay for it."""

    def settle() -> None:
        limits.sync(path)
        limits.sync(path.parent)

    return settle


def all_sizes(setting: Setting, plan: Plan, tell: Callable[[str], None]) -> Measured:
    """Measure finds and saves at all sizes of a plan.

    Args:
        setting: Where, and with which peers.
        plan: How much.
        tell: Called with what is measured next.
    """
    measured: Measured = {operation: {} for operation in LIMITS}
    for tokens in plan.find_sizes:
        tell(f"finds among {tokens:,} tokens")
        for operation, taken in finds(setting, tokens, plan.find):
            measured[operation][tokens] = taken
    for tokens in plan.save_sizes:
        tell(f"saves, and finds after them, among {tokens:,} tokens")
        measured[BY_ID_FRESH][tokens] = finds_within_2s(setting, tokens, plan.find)
        measured[FIRST_FIND][tokens] = first_finds(setting, tokens, plan.save)
        measured[SAVE][tokens] = saves(setting, tokens, plan.save)
    return measured
