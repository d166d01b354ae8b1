"""What needs processes of its own: saves by other processes, imports, and memory."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cryptography.fernet import Fernet

from bench import limits, stores
from bench.timing import Spread, spread
from zoho_keystore import EncryptedFileStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

# One process imports the SDK, which takes most of a second; all others are forked from it.
_context: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")

_LOCK_TIMEOUT_S = 120.0

#: A process that has not answered by then has failed.
_ANSWER_TIMEOUT_S = 300.0


class Saver:
    """A process that saves one token of a keystore when it is told to.

    Args:
        path: The keystore.
        key: Its key.
        number: The token's number.
        bare: Do the least that has to be done, without the store.
    """

    def __init__(self, path: Path, key: bytes, number: int, *, bare: bool = False) -> None:
        # The fork server is shared by all modules, and the last one to set this decides.
        _context.set_forkserver_preload(["bench.stores"])
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(path, key, number, bare, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        """Wait until the process has opened the keystore."""
        self.saved()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def save(self) -> None:
        """Save once, and wait for it."""
        self.start(0.0)
        self.saved()

    def start(self, until_s: float) -> None:
        """Start to save, at least once, until a moment of the monotonic clock, which all processes share."""
        self._pipe.send(until_s)

    def saved(self) -> list[tuple[float, float]]:
        """Wait for the end, and return when each save began and ended."""
        if not self._pipe.poll(_ANSWER_TIMEOUT_S):
            msg = f"a process that saves has not answered for {_ANSWER_TIMEOUT_S:g} s"
            raise TimeoutError(msg)
        saves: list[tuple[float, float]] = self._pipe.recv()
        return saves


def _serve(path: Path, key: bytes, number: int, bare: bool, pipe: Connection) -> None:  # noqa: FBT001 - pickled
    save = _bare(path, key, number) if bare else _ours(path, key, number)
    pipe.send([])
    while True:
        try:
            until_s = pipe.recv()
        except EOFError:
            return
        saves: list[tuple[float, float]] = []
        while not saves or time.monotonic() < until_s:
            access_token = f"1000.{os.urandom(16).hex()}.{os.urandom(16).hex()}"
            started_s = time.monotonic()
            save(access_token)
            saves.append((started_s, time.monotonic()))
        pipe.send(saves)


def _ours(path: Path, key: bytes, number: int) -> Callable[[str], None]:
    store = EncryptedFileStore(path, key=key, lock_timeout=_LOCK_TIMEOUT_S)
    token = stores.filled_token(number)

    def save(access_token: str) -> None:
        token.set_access_token(access_token)
        store.save_token(token)

    return save


def _bare(path: Path, key: bytes, number: int) -> Callable[[str], None]:
    lock = os.open(f"{path}.bare-lock", os.O_RDWR | os.O_CREAT, 0o600)
    return partial(limits.locked_save, lock, path, Fernet(key), number)


class Crowd(NamedTuple):
    """Many processes that save to one store.

    Attributes:
        processes: How many.
        per_s: Their saves per second.
        bare_per_s: The saves per second of as many bare loops.
        share: The first in parts of the second, by the turns.
        save: How long a save takes, in seconds.
        slowest_s: The slowest of these.
    """

    processes: int
    per_s: Spread
    bare_per_s: Spread
    share: Spread
    save: Spread
    slowest_s: float


def crowd(directory: Path, key: bytes, *, processes: int, turns: int, turn_s: float) -> Crowd:
    """Let many processes save, and as many bare loops, by turns.

    Args:
        directory: Where the store is made.
        key: Its key.
        processes: How many processes; each saves a token of its own.
        turns: How often.
        turn_s: The seconds of a turn.
    """
    with closing(stores.ours(directory, processes, key)) as store:
        path = store.path
    rates: dict[bool, list[float]] = {False: [], True: []}
    lasted: list[float] = []
    with ExitStack() as running:
        savers = {
            bare: [running.enter_context(Saver(path, key, number, bare=bare)) for number in range(1, processes + 1)]
            for bare in rates
        }
        for _ in range(turns):
            for bare, every in savers.items():
                saves = _saves(every, turn_s)
                rates[bare].append(len(saves) / (max(end for _, end in saves) - min(start for start, _ in saves)))
                if not bare:
                    lasted += [end - start for start, end in saves]
    share = spread(one / other for one, other in zip(rates[False], rates[True], strict=True))
    return Crowd(processes, spread(rates[False]), spread(rates[True]), share, spread(lasted), max(lasted))


def _saves(savers: Sequence[Saver], turn_s: float) -> list[tuple[float, float]]:
    until_s = time.monotonic() + turn_s
    for saver in savers:
        saver.start(until_s)
    return [save for saver in savers for save in saver.saved()]


_IMPORT = """
import time
started = time.perf_counter()
import zoho_keystore
print(time.perf_counter() - started)
"""

# The find makes the indexes.
_MEMORY = """
import re, sys
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zoho_keystore import EncryptedFileStore
store = EncryptedFileStore(sys.argv[1])
store.find_token(OAuthToken(client_id="other", client_secret="any", refresh_token="none"))
print(int(re.findall(r"VmRSS:\\s+(\\d+) kB", open("/proc/self/status").read())[0]) * 1024)
"""


def imports(rounds: int) -> Spread:
    """Return the seconds that ``import zoho_keystore`` takes in fresh processes, without the start of Python."""
    return spread([_run(_IMPORT) for _ in range(rounds + 1)][1:])  # The first one compiles.


def memory(directory: Path, key: bytes, *, tokens: int, rounds: int) -> Spread:
    """Return the bytes by which a process with an open store of tokens is larger than one with an empty store."""
    paths = []
    for count in (0, tokens):
        (directory / str(count)).mkdir()
        with closing(stores.ours(directory / str(count), count, key)) as store:
            paths.append(str(store.path))
    empty, full = paths
    return spread(_run(_MEMORY, full, key=key) - _run(_MEMORY, empty, key=key) for _ in range(rounds))


def _run(program: str, *arguments: str, key: bytes = b"") -> float:
    """Run a program in a fresh process, and return the number that it prints."""
    environment = {**os.environ, "ZOHO_KEYSTORE_KEY": key.decode()}
    done = subprocess.run(  # noqa: S603 - a program of ours
        [sys.executable, "-P", "-c", program, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout)
