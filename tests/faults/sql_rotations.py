"""Rotations of the keys of stores in databases: killed at each commit, and beside clients that save."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet

from faults import Attempt
from faults.processes import Child, engine, mutate
from faults.store import StoreProblem, token, write_private
from zoho_keystore._keys.ring import KeyRing, fingerprint
from zoho_keystore._keys.sources import key_source
from zoho_keystore._storage.sql import rotation
from zoho_keystore._storage.sql.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from faults.processes import Mutant
    from faults.sql_stores import SQLStore

#: How many rows a store has, and how many of them are sealed anew at once: a rotation has several batches.
_ROWS, _BATCH = 7, 3


def with_ring(store: SQLStore, directory: Path) -> SQLStore:
    """Return a store like this one whose keys are in a file of their own."""
    ring = directory / f"{store.prefix}.keys"
    write_private(ring, Fernet.generate_key() + b"\n")
    return replace(store, key=f"file:{ring}")


def rotate(store: SQLStore, *, is_new: bool = True) -> None:
    """Seal a store with a new key, or with the newest of its ring, and remove the old ones from the ring."""
    source: Any = key_source(str(store.key))
    if is_new:
        source.add(Fernet.generate_key())
    with closing(store.open()) as keystore:
        storage: Any = keystore._storage
        storage.reencrypt(KeyRing(source))
    if old := source.load()[1:]:
        source.remove(old)


def rotate_in_a_child(store: SQLStore, times: int = 3, mutant: Mutant = None) -> None:
    """Rotate in another process, some times, with a protection taken out there."""

    def work(pipe: Connection) -> None:
        mutate(mutant)
        for _ in range(times):
            rotate(store)
        pipe.send("done")

    with Child(work) as child:
        child.hear()


@engine("rotations that are killed at each commit")
def kill_rotations(directory: Path, *, make: Callable[[Path], SQLStore]) -> Generator[Attempt]:
    """Kill rotations before and after each of their commits: all rows can be found, and the next one completes.

    Args:
        directory: Where the ring is.
        make: Names the store.
    """
    store = with_ring(make(directory), directory)
    expected = {}
    with closing(store.open()) as keystore:
        for number in range(_ROWS):
            expected[keystore.save(token(f"t{number}")).id] = f"t{number}"
    number = 0
    is_done = False
    while not is_done:
        for is_before in (True, False):
            with Child(_rotate_until, store=store, number=number, is_before=is_before) as child:
                is_done = bool(child.messages())
                if child.wait() not in ((0,) if is_done else (-signal.SIGKILL,)):
                    raise StoreProblem(f"a rotation ended with status {child.wait()}")
            where = f"killed {'before' if is_before else 'after'} commit {number}"
            _require_whole(store, expected, where)
            rotate(store, is_new=False)
            _require_whole(store, expected, f"{where}, and resumed")
            _require_rotated(store, where)
            yield Attempt()
        number += 1


def _rotate_until(pipe: Connection, *, store: SQLStore, number: int, is_before: bool) -> None:
    """Rotate, and die before or after a commit; say so if there are fewer of them."""
    commits = 0
    commit = Session.commit

    def deadly(self: Session) -> None:
        nonlocal commits
        if is_before and commits == number:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self)
        if commits == number:
            os.kill(os.getpid(), signal.SIGKILL)
        commits += 1

    source: Any = key_source(str(store.key))
    source.add(Fernet.generate_key())
    with closing(store.open()) as keystore:
        rotation._BATCH = _BATCH  # Smaller for this process alone.
        Session.commit = deadly  # type: ignore[method-assign] # in this process alone
        storage: Any = keystore._storage
        storage.reencrypt(KeyRing(source))
    pipe.send("done")


def _require_whole(store: SQLStore, expected: dict[str, str], where: str) -> None:
    if (held := store.tokens()) != expected:
        raise StoreProblem(f"{where}: the store holds {held}")
    with closing(store.open()) as keystore:
        for id, name in expected.items():
            by_id, by_token = keystore.get(id), keystore.find(token(name))
            if by_id is None or by_token is None or by_id.refresh_token != name or by_token.id != id:
                raise StoreProblem(f"{where}: {name} is not found")


def _require_rotated(store: SQLStore, where: str) -> None:
    [key] = store.keys()
    names = {name for (name,) in store.rows(f"SELECT DISTINCT key_name FROM {store.prefix}_token")}
    [[announced]] = store.rows(f"SELECT key_names FROM {store.prefix}_store")
    if {announced, *names} != {fingerprint(key)}:
        raise StoreProblem(f"{where}: sealed with {names}, announced {announced}, in the ring {fingerprint(key)}")
