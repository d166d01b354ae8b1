"""Stale reads: one process changes the file, leaving its size and times as they were, and another one reads it."""

from __future__ import annotations

import json
import mmap
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from faults import Result, Store, StoreProblem
from faults.mutants import _put, trust_any_status
from faults.races import MORE_MUTANTS, Child, apart, noted, spoiled
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import file, state
from zoho_keystore.errors import CannotOpenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: The time that the file has after every change, in nanoseconds since the epoch.
_ALWAYS_NS = 1_700_000_000 * 10**9
#: Longer than a tick of any kernel's clock, in seconds.
_TICK_S = 0.02

#: The names of figures.
FINDS = "finds"
SAME_LOOK = "changes that left size and time as they were"
KNOWN_INODE = "changes that brought an inode number back"
SAME_INODE = "finds that met the inode number of the find before"
HALF_WRITTEN = "finds that met a file half written in place"

#: What a writer tells readers that it does not wait for: the last change begun, the last one ended, whether to stop.
_BEGUN, _ENDED, _STOP = range(3)


def _without_ctime(status: os.stat_result) -> object:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _one_time_for_all() -> None:
    _put(state, _mark=lambda _head: 1)
    _put(file, own_time=lambda _sealed, **_: _ALWAYS_NS + 1)


MORE_MUTANTS["status without a mark"] = partial(trust_any_status, _without_ctime)
MORE_MUTANTS["one time for all"] = _one_time_for_all


def _stop_clocks() -> None:
    """Let time stand still, for this process and for the file system, whose own time of changes is not looked at."""
    _put(file, stamp=_without_ctime)
    _put(state, stamp=_without_ctime, time=SimpleNamespace(time_ns=lambda: _ALWAYS_NS))


@apart
def stale_reads(
    directory: Path, *, replacements: int, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Replace the file, one to three times before another process finds what is there, so that inode numbers come back.

    Most of the replacements are saves; the others are made as ``mv`` makes them, and ``rm`` and ``cp``. What is there
    has not the time that its save gave it, so the reader has to know it by its content.
    """
    store = spoiled(directory, mutant)
    result = Result("finds after replacements that leave size and times as they were")
    chance = random.Random(0)  # noqa: S311 - no secret
    with noted(result), Child(_find, store=store) as reader:
        writer = _Writer(store)
        ways = [writer.save] * 8 + [writer.move, writer.remove_and_copy]
        tally = _Tally(writer, reader, result)
        while result.tried < replacements:
            for way in chance.choices(ways, k=chance.randint(1, 3)):
                tally.change(way)
                progress()
            tally.find()
    return result


@apart
def saves_at_one_moment(
    directory: Path, *, saves: int, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Save, one to three times before another process finds what is there, while all clocks stand still.

    So they do for some milliseconds on many systems. Only the time that each save gives its file tells states apart.
    """
    store = spoiled(directory, mutant)
    _stop_clocks()
    result = Result("finds after saves at one and the same moment")
    chance = random.Random(0)  # noqa: S311 - no secret
    with noted(result), Child(_find, store=store) as reader:
        writer = _Writer(store)
        tally = _Tally(writer, reader, result, resets_times=False)
        while result.tried < saves:
            for _ in range(chance.randint(1, 3)):
                tally.change(writer.save)
                progress()
            tally.find()
    return result


@apart
def in_place_writes(
    directory: Path, *, writes: int, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Write into the file as ``cp`` and ``rsync --inplace`` do, and have another process find what is there."""
    store = spoiled(directory, mutant)
    result = Result("finds after writes in place that leave size and times as they were")
    with noted(result), Child(_find, store=store) as reader:
        writer = _Writer(store)
        tally = _Tally(writer, reader, result)
        while result.tried < writes:
            tally.change((writer.copy_over, writer.write_over)[result.tried % 2])
            progress()
            tally.find()
    return result


@apart
def running_reads(
    directory: Path,
    *,
    changes: int,
    in_place: bool = False,
    readers: int = 2,
    threads: int = 2,
    mutant: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Change the file while processes, each with threads that share a store, find without a pause.

    Each find shows the last change that had ended when it began, or a later one, and never an older one than the find
    before it. Only what is just being written in place may fail to open.

    Args:
        directory: Where the store is made.
        changes: How many changes: saves, or writes as ``cp`` makes them.
        in_place: Whether it is writes.
        readers: How many processes read.
        threads: How many threads of each.
        mutant: The protection to take out.
        progress: Called after each change.
    """
    store = spoiled(directory, mutant)
    result = Result(f"finds during {'writes in place' if in_place else 'saves'}")
    shared = memoryview(mmap.mmap(-1, 24)).cast("q")
    with noted(result), ExitStack() as stack:
        writer = _Writer(store)
        children = [
            stack.enter_context(Child(_find_on, store=store, shared=shared, threads=threads)) for _ in range(readers)
        ]
        for child in children:
            child.hear()
        while result.tried < changes:
            result.tried += 1
            shared[_BEGUN] = result.tried
            writer.next()
            if in_place:
                writer.copy_over()
            else:
                writer.save()
            shared[_ENDED] = result.tried
            # Whoever copies a backup does not do so without a pause.
            time.sleep(_TICK_S if in_place else 0)
            progress()
            for child in children:
                child.listen()
        shared[_STOP] = 1
        heard = [child.hear() for child in children]
        result.figures |= {FINDS: sum(finds for finds, _ in heard), HALF_WRITTEN: sum(half for _, half in heard)}
    return result


class _Writer:
    """The ways in which the file is changed, each of which writes the one token with its present name."""

    def __init__(self, store: Store) -> None:
        """Make the store."""
        self.path = store.path
        self.number = 0
        self._store = store
        self._keystore = store.open()
        self.save()
        # With as many digits at the beginning as at the end, or the size would tell states apart.
        _write(self.path, os.O_TRUNC, self._sealed(generation=10**6))

    @property
    def name(self) -> str:
        """The token's name, of a fixed length."""
        return f"{self.number:08d}"

    def next(self) -> None:
        """Give the token its next name."""
        self.number += 1

    def save(self) -> None:
        """Save the token."""
        self._keystore.save(TokenRecord(id="1", refresh_token=self.name))

    def move(self) -> None:
        """Rename another file over it: ``mv``, and ``rsync`` as a rule."""
        other = self.path.with_name("other")
        _write(other, os.O_CREAT, self._sealed())
        os.rename(other, self.path)

    def remove_and_copy(self) -> None:
        """Remove the file and write a new one: ``rm`` and ``cp``."""
        sealed = self._sealed()
        os.unlink(self.path)
        _write(self.path, os.O_CREAT, sealed)

    def copy_over(self) -> None:
        """Empty the file and write it again: ``cp``."""
        _write(self.path, os.O_TRUNC, self._sealed())

    def write_over(self) -> None:
        """Write over what is in the file: ``rsync --inplace``."""
        _write(self.path, 0, self._sealed())

    def _sealed(self, generation: int | None = None) -> bytes:
        """Return the next state, as any program that has the key could make it."""
        document = self._store.document()
        if document is None:
            msg = "the file is gone"
            raise StoreProblem(msg)
        document["generation"] = generation or document["generation"] + 1
        document["tokens"][0]["refresh_token"] = self.name
        return Fernet(self._store.key).encrypt(json.dumps(document, separators=(",", ":")).encode())


def _write(path: Path, flags: int, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | flags, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


class _Tally:
    """Changes and finds by turns, and what they come to."""

    def __init__(self, writer: _Writer, reader: Child, result: Result, *, resets_times: bool = True) -> None:
        """Take who changes, who finds, where it is counted, and whether a change leaves the times as they were."""
        self._writer = writer
        self._reader = reader
        self._result = result
        self._figures = result.figures
        self._figures |= dict.fromkeys((FINDS, SAME_LOOK, KNOWN_INODE, SAME_INODE), 0)
        self._inodes: set[int] = set()
        self._inode_found = 0
        self._resets_times = resets_times
        self._reset_times()

    def _reset_times(self) -> None:
        if self._resets_times:
            os.utime(self._writer.path, ns=(_ALWAYS_NS, _ALWAYS_NS))

    def change(self, way: Callable[[], None]) -> None:
        """Change the file, and set its times to what they always are, if that is the attack."""
        path = self._writer.path
        before = os.stat(path)
        self._inodes.add(before.st_ino)
        self._writer.next()
        way()
        self._reset_times()
        after = os.stat(path)
        self._result.tried += 1
        self._figures[SAME_LOOK] += (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        self._figures[KNOWN_INODE] += after.st_ino in self._inodes - {before.st_ino}

    def find(self) -> None:
        """Have the reader find the token, and write it down if that is not what is there."""
        inode = os.stat(self._writer.path).st_ino
        self._figures[SAME_INODE] += inode == self._inode_found
        self._figures[FINDS] += 1
        self._inode_found = inode
        self._reader.tell()
        if (found := self._reader.hear()) != self._writer.name:
            self._result.failures.append(f"{found} was found when {self._writer.name} was there")


def _found(keystore: Keystore) -> str:
    found = keystore.find(TokenRecord(id="1"))
    if found is None or found.refresh_token is None:
        msg = "the token is gone"
        raise StoreProblem(msg)
    return found.refresh_token


def _find(pipe: Connection, *, store: Store) -> None:
    keystore = None
    while True:
        pipe.recv()
        keystore = keystore or store.open()
        pipe.send(_found(keystore))


def _find_on(pipe: Connection, *, store: Store, shared: memoryview[int], threads: int) -> None:
    keystore = store.open()
    pipe.send("ready")

    def work(_: int) -> tuple[int, int]:
        finds = half_written = last = 0
        while not shared[_STOP]:
            ended = shared[_ENDED]
            try:
                found = int(_found(keystore))
                if not max(last, ended) <= found <= shared[_BEGUN]:
                    msg = f"change {found} was found after {last}, when {ended} had ended"
                    raise StoreProblem(msg)
            except CannotOpenError as error:
                half_written += 1
                if ended == shared[_BEGUN]:
                    pipe.send(error)
            except Exception as error:  # noqa: BLE001 - raised again where it is heard
                pipe.send(error)
                break
            else:
                last = found
                finds += 1
        return finds, half_written

    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(work, range(threads)))
    pipe.send((sum(finds for finds, _ in done), sum(half for _, half in done)))
