"""What only processes of their own can show: saves of others, imports, and memory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography.fernet import Fernet

from bench import limits, stores
from bench.timing import Spread, spread
from zoho_keystore import EncryptedFileStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

# One process imports the SDK, which takes most of a second, and all others are forked from it.
_context = multiprocessing.get_context("forkserver")

#: For how long a save waits for all others.
_LOCK_TIMEOUT_S = 120.0

#: Where none of them is kept waiting by a pipe that nobody has filled, in seconds.
_PATIENCE_S = 300.0


class Saver:
    """A process that saves one token of a keystore as often as it is told to.

    Args:
        path: The keystore.
        key: Its key.
        number: Which token.
        is_limit: Whether to do the least that has to be done, and not to use the store.
    """

    def __init__(self, path: Path, key: bytes, number: int, *, is_limit: bool = False) -> None:
        # Just now, since there is one such process for all modules, and the last one to say so decides.
        _context.set_forkserver_preload(["bench.stores"])
        self._end, theirs = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(path, key, number, is_limit, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        """Wait until it has opened the keystore."""
        self.saved()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._end.close()
        self._process.join()

    def save(self) -> None:
        """Let it save once, and wait for that."""
        self.go(0.0)
        self.saved()

    def go(self, until_s: float) -> None:
        """Let it save until a moment, and once at least.

        Args:
            until_s: The moment, by the clock that all processes share.
        """
        self._end.send(until_s)

    def saved(self) -> list[tuple[float, float]]:
        """Return when each of its saves began and ended, as soon as they are over."""
        if not self._end.poll(_PATIENCE_S):
            msg = f"a process that saves has said nothing for {_PATIENCE_S:g} s"
            raise TimeoutError(msg)
        saves: list[tuple[float, float]] = self._end.recv()
        return saves


def _serve(path: Path, key: bytes, number: int, is_limit: bool, end: Connection) -> None:  # noqa: FBT001 - pickled
    """Save as told, until nobody is there to tell."""
    save = _limit(path, key, number) if is_limit else _ours(path, key, number)
    end.send([])
    while True:
        try:
            until_s = end.recv()
        except EOFError:
            return
        saves: list[tuple[float, float]] = []
        while not saves or time.monotonic() < until_s:
            access_token = f"1000.{os.urandom(16).hex()}.{os.urandom(16).hex()}"
            started_s = time.monotonic()
            save(access_token)
            saves.append((started_s, time.monotonic()))
        end.send(saves)


def _ours(path: Path, key: bytes, number: int) -> Callable[[str], None]:
    store = EncryptedFileStore(path, key=key, lock_timeout=_LOCK_TIMEOUT_S)
    token = stores.whole_token(number)

    def save(access_token: str) -> None:
        token.set_access_token(access_token)
        store.save_token(token)

    return save


def _limit(path: Path, key: bytes, number: int) -> Callable[[str], None]:
    return limits.Sharer(path, Fernet(key), number).save


class Crowd(NamedTuple):
    """What came of many processes that save to one store.

    Attributes:
        processes: How many.
        rate: How many times as many saves they do together as one of them does alone, by the turns.
        alone_per_s: The saves per second of one.
        together_per_s: The saves per second of all.
        save: How long a save takes when all of them save, in seconds.
        slowest_s: The slowest of those.
        limit_rate: As the rate, of processes that do the least that has to be done.
        limit_together_per_s: The saves per second of all of these.
    """

    processes: int
    rate: Spread
    alone_per_s: Spread
    together_per_s: Spread
    save: Spread
    slowest_s: float
    limit_rate: Spread
    limit_together_per_s: Spread


def crowd(directory: Path, key: bytes, *, processes: int, turns: int, turn_s: float) -> Crowd:
    """Let one process save for some time, then all of them, by turns.

    Args:
        directory: Where the store is to be.
        key: Its key.
        processes: How many processes; each saves a token of its own.
        turns: How often.
        turn_s: For how long each time, in seconds.
    """
    store = stores.Ours(directory, processes, key)
    store.close()
    alone: dict[bool, list[float]] = {True: [], False: []}
    together: dict[bool, list[float]] = {True: [], False: []}
    lasted: list[float] = []
    with ExitStack() as running:
        savers = {
            is_limit: [
                running.enter_context(Saver(store.path, key, number, is_limit=is_limit))
                for number in range(1, processes + 1)
            ]
            for is_limit in (False, True)
        }
        for _ in range(turns):
            for is_limit, every in savers.items():
                alone[is_limit].append(_rate(_saves(every[:1], turn_s)))
                saves = _saves(every, turn_s)
                together[is_limit].append(_rate(saves))
                if not is_limit:
                    lasted += [ended - began for began, ended in saves]
    ours, limit = (
        spread(of_all / of_one for of_one, of_all in zip(alone[is_limit], together[is_limit], strict=True))
        for is_limit in (False, True)
    )
    return Crowd(
        processes,
        ours,
        spread(alone[False]),
        spread(together[False]),
        spread(lasted),
        max(lasted),
        limit,
        spread(together[True]),
    )


def _saves(savers: Sequence[Saver], turn_s: float) -> list[tuple[float, float]]:
    """Let some save at once for some time, and return when each save began and ended."""
    until_s = time.monotonic() + turn_s
    for saver in savers:
        saver.go(until_s)
    return [save for saver in savers for save in saver.saved()]


def _rate(saves: Sequence[tuple[float, float]]) -> float:
    return len(saves) / (max(ended for _, ended in saves) - min(began for began, _ in saves))


_IMPORT_ALONE = """
import time
started = time.perf_counter()
import zoho_keystore
print(time.perf_counter() - started)
"""

# What a script imports that uses the SDK; then what it imports besides to have this store.
_IMPORT_BESIDE_SDK = """
import time
started = time.perf_counter()
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
sdk = time.perf_counter()
from zoho_keystore import EncryptedFileStore
print(sdk - started, time.perf_counter() - sdk)
"""

# With the indexes that a find makes.
_MEMORY = """
import re, sys
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zoho_keystore import EncryptedFileStore
store = EncryptedFileStore(sys.argv[1])
store.find_token(OAuthToken(client_id="nobody's", client_secret="any", refresh_token="none"))
status = open("/proc/self/status").read()
print(*(int(re.findall(name + r":\\s+(\\d+) kB", status)[0]) * 1024 for name in ("VmRSS", "VmHWM")))
"""


class Imports(NamedTuple):
    """How long imports take, in seconds, without starting Python.

    Attributes:
        alone: ``import zoho_keystore`` in a fresh process.
        sdk: What a script imports that uses the SDK.
        on_top: The store class, after that.
    """

    alone: Spread
    sdk: Spread
    on_top: Spread


def imports(rounds: int) -> Imports:
    """Import in fresh processes, by turns."""
    alone, beside = [], []
    for number in range(rounds + 1):
        first, then = _said_by(_IMPORT_ALONE), _said_by(_IMPORT_BESIDE_SDK)
        if number:  # Before, Python may have had to compile.
            alone.append(first)
            beside.append(then)
    return Imports(
        spread(seconds for [seconds] in alone),
        spread(sdk for sdk, _ in beside),
        spread(on_top for _, on_top in beside),
    )


class Memory(NamedTuple):
    """What tokens in memory take, in bytes.

    Attributes:
        tokens: How many tokens.
        kept: How much more a process has that has opened their store than one with an empty store.
        peak: How much more it had at most, while it read them.
    """

    tokens: int
    kept: Spread
    peak: Spread


def memory(directory: Path, key: bytes, *, tokens: int, rounds: int) -> Memory:
    """Open an empty store and a full one in fresh processes, by turns."""
    paths = []
    for count in (0, tokens):
        place = directory / str(count)
        place.mkdir()
        store = stores.Ours(place, count, key)
        store.close()
        paths.append(store.path)
    kept, peak = [], []
    for _ in range(rounds):
        empty, full = (_said_by(_MEMORY, str(path), key=key) for path in paths)
        kept.append(full[0] - empty[0])
        peak.append(full[1] - empty[1])
    return Memory(tokens, spread(kept), spread(peak))


def _said_by(program: str, *arguments: str, key: bytes = b"") -> list[float]:
    """Run a program in a fresh process, and return the numbers that it prints."""
    environment = {**os.environ, "ZOHO_KEYSTORE_KEY": key.decode()}
    done = subprocess.run(  # noqa: S603 - a program of ours
        [sys.executable, "-P", "-c", program, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [float(number) for number in done.stdout.split()]
