"""The runs: what is measured, at which sizes, and how often."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from bench import limits, processes, stores
from bench.timing import Budget, Contestant, Rounds, again, interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.stores import Store

FIND, FIND_BY_ID, FIND_ANEW = "find_token", "find_token_by_id", "find_token, a token anew each time"
FIND_MIDDLE = "find_token, the token in the middle"
SAVE, FIND_AFTER_SAVE = "save_token", "find_token, after another process's save"

#: By operation and number of tokens, what each contestant took.
Measured = dict[str, dict[int, dict[str, Rounds]]]


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        find_sizes: The numbers of tokens at which tokens are looked for.
        save_sizes: Those at which they are saved.
        find: How much of each look-up.
        save: How much of each save.
        after_save: How much of the look-ups after another process's save.
        processes: How many processes save at once.
        turns: How often they do.
        turn_s: For how long, in seconds.
        imports: How often is imported.
        memory: How often memory is measured.
    """

    find_sizes: tuple[int, ...]
    save_sizes: tuple[int, ...]
    find: Budget
    save: Budget
    after_save: Budget
    processes: int
    turns: int
    turn_s: float
    imports: int
    memory: int


FULL = Plan(
    find_sizes=(1, 10, 100, 1_000, 10_000, 100_000),
    save_sizes=(1, 10, 100, 1_000, 10_000),
    find=Budget(rounds=61, longest_s=5.0, sample_s=0.005),
    save=Budget(rounds=151, longest_s=12.0),
    after_save=Budget(rounds=151, longest_s=12.0),
    processes=24,
    turns=5,
    turn_s=4.0,
    imports=21,
    memory=5,
)
QUICK = Plan(
    find_sizes=(1, 1_000),
    save_sizes=(1, 1_000),
    find=Budget(rounds=9, longest_s=0.3, sample_s=0.001, least=1),
    save=Budget(rounds=9, longest_s=0.5, least=1),
    after_save=Budget(rounds=9, longest_s=0.5, least=1),
    processes=24,
    turns=1,
    turn_s=0.7,
    imports=3,
    memory=1,
)


PEERS: dict[str, Callable[[Path, int], Store]] = {
    stores.FILE_STORE: stores.Plain,
    stores.SQLITE: stores.Rows,
    stores.MSAL: stores.Msal,
    stores.CRYPTFILE: stores.CryptFile,
}
_MODULES = {stores.MSAL: "msal_extensions", stores.CRYPTFILE: "keyrings.cryptfile.cryptfile"}


def missing_peers() -> list[str]:
    """Return the peers that are not installed."""
    missing = []
    for name, module in _MODULES.items():
        try:
            import_module(module)
        except ImportError:
            missing.append(name)
    return missing


@dataclass(frozen=True)
class Setting:
    """Where is measured, and with whom.

    Attributes:
        directory: Where the stores are to be.
        key: The key of ours.
        peers: The names of those that ours is compared with.
    """

    directory: Path
    key: bytes
    peers: tuple[str, ...]

    @contextmanager
    def opened(self, tokens: int) -> Iterator[tuple[stores.Ours, list[Store]]]:
        """Make stores of so many tokens: ours, and those of the peers that can hold them."""
        with tempfile.TemporaryDirectory(dir=self.directory) as place, ExitStack() as open_ones:
            ours = open_ones.enter_context(closing(stores.Ours(Path(place), tokens, self.key)))
            names = [name for name in self.peers if tokens <= stores.MOST_FOR_OTHERS or name == stores.SQLITE]
            others = [open_ones.enter_context(closing(PEERS[name](Path(place), tokens))) for name in names]
            yield ours, others


def finds(setting: Setting, tokens: int, budget: Budget) -> dict[str, dict[str, Rounds]]:
    """Look for the token that was added last, by each of the look-ups, beside one ``stat`` of our file.

    FileStore looks through its file from the top, and so takes half as long for the token in the middle.
    """
    with setting.opened(tokens) as (ours, others):
        limit = Contestant(stores.LIMIT, again(partial(os.stat, str(ours.path))))
        every = [ours, *others]
        held = [Contestant(store.name, again(store.finder(tokens))) for store in every]
        # To the others, any look-up is one by an id.
        sdk_stores = [store for store in every if isinstance(store, stores.Ours | stores.Plain)]
        by_id = [Contestant(store.name, again(store.finder_by_id(tokens))) for store in sdk_stores]
        middle = [Contestant(store.name, again(store.finder((tokens + 1) // 2))) for store in sdk_stores]
        anew = [Contestant(store.name, partial(_finders_anew, store, tokens)) for store in sdk_stores]
        return {
            FIND: interleaved([limit, *held], budget),
            FIND_MIDDLE: interleaved([limit, *middle], budget),
            FIND_BY_ID: interleaved([limit, *by_id], budget),
            FIND_ANEW: interleaved([limit, *anew], budget),
        }


def saves(setting: Setting, tokens: int, budget: Budget) -> dict[str, Rounds]:
    """Save the token in the middle of so many, beside a durable write of the same bytes into the same folder."""
    middle = (tokens + 1) // 2
    fernet = Fernet(setting.key)
    with setting.opened(tokens) as (ours, others):
        with open(ours.path, "rb") as file:
            document = fernet.decrypt(file.read())
        path = ours.path.with_name("limit")
        limit = Contestant(stores.LIMIT, again(partial(limits.write, path, fernet, document)), _settled(path))
        savers = [
            Contestant(store.name, partial(_savers, store, middle, count()), _settled(store.path))
            for store in (ours, *others)
        ]
        return interleaved([limit, *savers], budget)


def _finders_anew(store: stores.Ours | stores.Plain, number: int, calls: int) -> list[Callable[[], object]]:
    return [store.finder_anew(number) for _ in range(calls)]


def _savers(store: Store, number: int, numbers: Iterator[int], calls: int) -> list[Callable[[], object]]:
    """Return saves of access tokens that differ."""
    return [store.saver(number, stores.secret("new", next(numbers))) for _ in range(calls)]


def _settled(path: Path) -> Callable[[], None]:
    """Return what brings to the disk what a store has not synced: else the next one that syncs would pay for it."""

    def settle() -> None:
        limits.sync(path)
        limits.sync(path.parent)

    return settle


def finds_after_save(setting: Setting, tokens: int, budget: Budget) -> dict[str, Rounds]:
    """Look for a token after another process has saved one, beside reading, decrypting and parsing the same bytes."""
    only_ours = Setting(setting.directory, setting.key, ())
    with only_ours.opened(tokens) as (ours, _), processes.Saver(ours.path, setting.key, 1) as saver:
        find = ours.finder((tokens + 1) // 2)
        limit = partial(limits.read, ours.path, Fernet(setting.key))
        contestants = [Contestant(stores.LIMIT, again(limit)), Contestant(stores.OURS, again(find))]
        return interleaved(contestants, budget, before_each=saver.save)


def all_sizes(setting: Setting, plan: Plan, tell: Callable[[str], None]) -> Measured:
    """Measure look-ups and saves at all sizes of a plan.

    Args:
        setting: Where, and with whom.
        plan: How much.
        tell: Called with what is measured next.
    """
    measured: Measured = {}
    for tokens in plan.find_sizes:
        tell(f"finds among {tokens:,}")
        for operation, taken in finds(setting, tokens, plan.find).items():
            measured.setdefault(operation, {})[tokens] = taken
    for tokens in plan.save_sizes:
        tell(f"finds after another process's save, {tokens:,}")
        measured.setdefault(FIND_AFTER_SAVE, {})[tokens] = finds_after_save(setting, tokens, plan.after_save)
        tell(f"saves among {tokens:,}")
        measured.setdefault(SAVE, {})[tokens] = saves(setting, tokens, plan.save)
    return measured
