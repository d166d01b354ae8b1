"""Stale reads: one process changes the file, leaving its size and times as they were, and another process reads it."""

from __future__ import annotations

import json
import mmap
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from faults import Attempt
from faults.mutants import see_whole_seconds
from faults.processes import Child, engine
from faults.races import store_in
from faults.store import Store, StoreProblem, write_private
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import CannotOpenError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: The modification time that the file has after every change, in nanoseconds since the epoch.
_ALWAYS_NS = 1_700_000_000 * 10**9
#: Longer than a tick of any kernel's clock, in seconds.
_TICK_S = 0.02
#: So many of the first bytes of the file are its own: the IV is among them.
_PREFIX_BYTES = 36

#: The names of figures.
FINDS = "finds"
SAME_LOOK = "changes that left size and time as they were"
KNOWN_INODE = "changes that brought an inode number back"
SAME_INODE = "finds that met the inode number of the find before"
HALF_WRITTEN = "finds that met a file half written in place"

#: The ways to change the file. Most replacements are saves, so that inode numbers come back.
REPLACEMENTS = ("save",) * 8 + ("move", "remove_and_copy")
WRITES_IN_PLACE = ("copy_over", "write_over")


class _Writer:
    """The ways in which the file is changed, each of which writes the one token with its present name."""

    def __init__(self, store: Store) -> None:
        """Make the store."""
        self.number = 0
        self._store = store
        self._keystore = store.open()
        self._save()
        # With as many digits at the beginning as at the end, or the size would change.
        _write(store.path, os.O_TRUNC, self._sealed(10**6))

    @property
    def name(self) -> str:
        """The token's name, of a fixed length."""
        return f"{self.number:08d}"

    def _sealed(self, generation: int = 0) -> bytes:
        """Return the next state, as any program that has the key could make it."""
        document = self._store.document() or {}
        document["generation"] = generation or document["generation"] + 1
        document["tokens"][0]["api_domain"] = self.name
        return Fernet(self._store.key).encrypt(json.dumps(document, separators=(",", ":")).encode())

    def change(self, way: str) -> None:
        """Give the token its next name."""
        self.number += 1
        getattr(self, f"_{way}")()

    def _save(self) -> None:
        self._keystore.save(TokenRecord(id="1", refresh_token="r", api_domain=self.name))

    def _move(self) -> None:
        """Rename another file over it: ``mv``, and ``rsync`` as a rule."""
        other = self._store.path.with_name("other")
        _write(other, os.O_CREAT, self._sealed())
        os.rename(other, self._store.path)

    def _remove_and_copy(self) -> None:
        """Remove the file and write a new one: ``rm`` and ``cp``."""
        sealed = self._sealed()
        os.unlink(self._store.path)
        _write(self._store.path, os.O_CREAT, sealed)

    def _copy_over(self) -> None:
        """Empty the file and write it again: ``cp``."""
        _write(self._store.path, os.O_TRUNC, self._sealed())

    def _write_over(self) -> None:
        """Write over what is in the file: ``rsync --inplace``."""
        _write(self._store.path, 0, self._sealed())


def _write(path: Path, flags: int, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | flags, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


@engine("finds after changes that leave size and times as they were")
def finds_after_changes(
    directory: Path, *, changes: int, ways: Sequence[str] = REPLACEMENTS, most_at_once: int = 3, is_coarse: bool = False
) -> Generator[Attempt]:
    """Change the file, and have another process find what is there.

    Args:
        directory: Where to work.
        changes: How many changes.
        ways: How to change it, to be drawn from: :data:`REPLACEMENTS` or :data:`WRITES_IN_PLACE`.
        most_at_once: How many changes there are at most before a find.
        is_coarse: Whether all times are seen in whole seconds, as some file systems keep them.
    """
    if is_coarse:
        see_whole_seconds()
    store = store_in(directory)
    chance = random.Random(0)  # noqa: S311 - no secret
    with Child(_find, store=store) as reader:
        writer = _Writer(store)
        inodes: set[int] = set()
        inode_found = tried = 0
        while tried < changes:
            figures = {FINDS: 1.0, SAME_LOOK: 0.0, KNOWN_INODE: 0.0, SAME_INODE: 0.0}
            drawn = chance.choices(ways, k=chance.randint(1, most_at_once))
            for way in drawn:
                os.utime(store.path, ns=(_ALWAYS_NS, _ALWAYS_NS))
                before = os.stat(store.path)
                inodes.add(before.st_ino)
                writer.change(way)
                os.utime(store.path, ns=(_ALWAYS_NS, _ALWAYS_NS))
                after = os.stat(store.path)
                figures[SAME_LOOK] += (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
                figures[KNOWN_INODE] += after.st_ino in inodes - {before.st_ino}
            figures[SAME_INODE] += after.st_ino == inode_found
            inode_found = after.st_ino
            tried += len(drawn)
            reader.tell()
            found = reader.hear()
            failure = None if found == writer.name else f"{found} was found when {writer.name} was there"
            yield Attempt(failure, figures, len(drawn))


@engine("finds in a file that is cut off behind its first bytes")
def finds_after_damage(directory: Path, *, step: int = 1) -> Generator[Attempt]:
    """Cut the file off behind its first bytes: a running process says so at its next find, as a new one does.

    The file is a restored copy: no save of the running process has made it.

    Args:
        directory: Where to work.
        step: By how many bytes the length differs from one cut to the next.
    """
    store = store_in(directory)
    sound = store.sealed({"1": "whole"})
    with Child(_find, store=store) as reader:
        for length in range(_PREFIX_BYTES, len(sound), step):
            write_private(store.path, sound)
            os.utime(store.path, ns=(_ALWAYS_NS, _ALWAYS_NS))
            reader.tell()
            heard = [reader.hear()]
            os.truncate(store.path, length)
            os.utime(store.path, ns=(_ALWAYS_NS, _ALWAYS_NS))
            reader.tell()
            heard.append(reader.hear())
            good = heard == ["whole", CannotOpenError.__name__]
            yield Attempt(None if good else f"cut off after {length} bytes: {heard[1]} was found after {heard[0]}")


def _find(pipe: Connection, *, store: Store) -> None:
    keystore = None
    while True:
        pipe.recv()
        keystore = keystore or store.open()
        try:
            pipe.send(_found(keystore))
        except CannotOpenError as error:
            pipe.send(type(error).__name__)


def _found(keystore: Keystore) -> str:
    """Return the name of the token: its API domain, or its refresh token where it has none."""
    found = keystore.find(TokenRecord(id="1"))
    name = None if found is None else found.api_domain or found.refresh_token
    if name is None:
        raise StoreProblem("the token is gone")
    return name


# --- Without a pause -------------------------------------------------------------------------------------------------

#: What the writer tells readers that it does not wait for: the last change begun, the last one ended, whether to stop.
_BEGUN, _ENDED, _STOP = range(3)


@engine("finds during changes")
def finds_during_changes(
    directory: Path, *, changes: int, way: str = "save", readers: int = 2, threads: int = 2
) -> Generator[Attempt]:
    """Change the file while processes, each with threads that share a store, find without a pause.

    Each find shows the last change that had ended when it began, or a later one, and never an older one than the find
    before it. Only what is just being written in place may fail to open.

    Args:
        directory: Where to work.
        changes: How many changes.
        way: How to change it: "save", or "copy_over" in place.
        readers: How many processes read.
        threads: How many threads of each.
    """
    store = store_in(directory)
    shared = memoryview(mmap.mmap(-1, 24)).cast("q")
    with ExitStack() as stack:
        writer = _Writer(store)
        children = [
            stack.enter_context(Child(_find_on, store=store, shared=shared, threads=threads)) for _ in range(readers)
        ]
        for child in children:
            child.hear()
        for _ in range(changes):
            shared[_BEGUN] += 1
            writer.change(way)
            shared[_ENDED] = shared[_BEGUN]
            # A program that copies a backup does not do so without a pause.
            time.sleep(0 if way == "save" else _TICK_S)
            for child in children:
                child.listen()
            yield Attempt()
        shared[_STOP] = 1
        for child in children:
            finds, half_written = child.hear()
            yield Attempt(figures={FINDS: finds, HALF_WRITTEN: half_written}, tried=0)


def _find_on(pipe: Connection, *, store: Store, shared: memoryview[int], threads: int) -> None:
    keystore = store.open()
    pipe.send("ready")
    with ThreadPoolExecutor(threads) as pool:
        works: list[Callable[[], tuple[int, int]]] = [lambda: _find_until_stopped(keystore, shared)] * threads
        done = list(pool.map(lambda work: work(), works))
    pipe.send((sum(finds for finds, _ in done), sum(half for _, half in done)))


def _find_until_stopped(keystore: Keystore, shared: memoryview[int]) -> tuple[int, int]:
    finds = half_written = last = 0
    while not shared[_STOP]:
        ended = shared[_ENDED]
        try:
            found = int(_found(keystore))
        except CannotOpenError:
            half_written += 1
            if ended == shared[_BEGUN]:
                raise
            continue
        if not max(last, ended) <= found <= shared[_BEGUN]:
            raise StoreProblem(f"change {found} was found after {last}, when {ended} had ended")
        last = found
        finds += 1
    return finds, half_written
