"""Rotations of keys beside running processes, beside each other, and where a lock is taken."""

from __future__ import annotations

import itertools
import os
import random
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from faults import Attempt
from faults.counters import Ledger
from faults.mutants import act_before_old_keys_are_dropped
from faults.processes import Child, engine, start_together, timed
from faults.ringed import RingedStore, names
from faults.store import TOKENS, Store, StoreProblem, token, write_private
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import LockTimeoutError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: The names of figures.
SAVES, FINDS, OPENED_ANEW = "saves", "finds", "opened anew"

#: For how long a rotation waits for a lock that is kept, in seconds.
_WAIT_S = 0.2
#: How much longer a wait may take on a machine that is busy, in seconds.
_SLOW_S = 5.0


class RotationLoop:
    """Rotations of a store that holds always the same, for :func:`faults.kills.kill_at_any_moment`."""

    rounds = 2
    #: After so many of the kills, on average, another rotation has to complete; else the next one that is killed has
    #: to finish what the one before has left.
    _RECOVERED = 0.7

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ringed = RingedStore.in_directory(directory)
        self._last = 0
        self._former: list[bytes] = []

    def reset(self) -> None:
        """Make the store and its ring anew."""
        self._ringed = RingedStore.made_in(self._directory)
        self._note_keys()
        self._last = 0

    def step(self, _number: int) -> None:
        """Rotate."""
        self._ringed.rotate()

    def check(self, acknowledged: int) -> int:
        """Make sure that all is there, and mostly that the next rotation completes."""
        back = set(self._former).intersection(self._ringed.keys())
        # Of the first rotation that completed on, the keys of before are good for nothing any more.
        if acknowledged > self._last and back:
            raise StoreProblem(f"old keys are in the ring: {names(back)}")
        self._ringed.require_whole()
        if random.random() < self._RECOVERED:  # noqa: S311 - no secret
            self._ringed.recover(self._former)
        self._note_keys()
        self._last = acknowledged
        return acknowledged

    def _note_keys(self) -> None:
        keys = self._ringed.keys()
        self._former = keys[self._ringed.sealing_key() != keys[0] :]


@engine("rotations beside processes that save and find")
def beside_processes(
    directory: Path, *, processes: int = 4, rotations: int = 6, pause_s: float = 0.0
) -> Generator[Attempt]:
    """Rotate while processes save and find without pause: each finds what it and the others have saved.

    So does one that opens the store anew each time, as a process does that starts in that moment.

    Args:
        directory: Where to work.
        processes: How many processes save.
        rotations: How many rotations, in a process of their own.
        pause_s: For how many seconds that one waits after each.
    """
    ringed = RingedStore.made_in(directory)
    ledger = Ledger(processes)
    figures = {SAVES: 0.0, FINDS: 0.0, OPENED_ANEW: 0.0}
    with ExitStack() as stack:
        keystore = ringed.open()
        for number in range(processes):
            keystore.save(token("0", id=f"p{number}"))
        children = [
            stack.enter_context(Child(_save_and_find, ringed=ringed, ledger=ledger, me=number))
            for number in range(processes)
        ]
        children.append(stack.enter_context(Child(_start_and_find, ringed=ringed, ledger=ledger)))
        rotator = stack.enter_context(Child(_rotate_on, ringed=ringed, times=rotations, pause_s=pause_s))
        start_together([*children, rotator])
        done = rotator.hear()
        _wait_for_one_more_save(ledger, children)
        ledger.stop()
        for child in children:
            for name, amount in child.hear().items():
                figures[name] += amount
    held = ringed.document()
    expected = TOKENS | {f"p{number}": f"{number}.{saves}" for number, saves in enumerate(ledger.acknowledged)}
    if (found := ringed.tokens()) != expected:
        raise StoreProblem(f"the store holds {found}, not {expected}")
    writes = 4 + processes + sum(ledger.acknowledged) + rotations  # It began with generation 4.
    if held["generation"] != writes:
        raise StoreProblem(f"{writes} writes were acknowledged, and the store counts {held['generation']}")
    for before, (key, dropped), after in done:
        if [key] != list(map(fingerprint, after)) or list(dropped) != list(map(fingerprint, before)):
            raise StoreProblem(f"a rotation of {names(before)} left {names(after)}, and says {key}, {dropped}")
    ringed.require_rotated([key for before, _, _ in done for key in before])
    ringed.require_no_leftovers()
    yield Attempt(figures=figures, tried=rotations)


def _wait_for_one_more_save(ledger: Ledger, children: Sequence[Child]) -> None:
    """Wait until each process has saved once more, so that it has gone on after the last rotation."""
    until = list(ledger.acknowledged)
    while not all(done > before for done, before in zip(ledger.acknowledged, until, strict=True)):
        for child in children:
            child.listen()
        time.sleep(0.001)


def _rotate_on(pipe: Connection, *, ringed: RingedStore, times: int, pause_s: float) -> None:
    pipe.send("ready")
    pipe.recv()
    done = []
    for _ in range(times):
        before = ringed.keys()
        made = ringed.rotate()
        done.append((before, (made.fingerprint, made.dropped), ringed.keys()))
        time.sleep(pause_s)
    pipe.send(done)


def _save_and_find(pipe: Connection, *, ringed: RingedStore, ledger: Ledger, me: int) -> None:
    keystore = ringed.open()
    figures = {SAVES: 0, FINDS: 0}
    pipe.send("ready")
    pipe.recv()
    for number in itertools.count(1):
        ledger.begun[me] = number
        # Of its own: a refresh token that another record has given up is not saved by id.
        keystore.save(TokenRecord(id=f"p{me}", refresh_token=f"{me}.{number}"))
        ledger.acknowledged[me] = number
        figures[SAVES] += 1
        figures[FINDS] += _require_fresh(keystore, ledger)
        if ledger.stopped:
            break
    pipe.send(figures)


def _start_and_find(pipe: Connection, *, ringed: RingedStore, ledger: Ledger) -> None:
    figures = {FINDS: 0, OPENED_ANEW: 0}
    pipe.send("ready")
    pipe.recv()
    while not ledger.stopped:
        figures[FINDS] += _require_fresh(ringed.open(), ledger)
        figures[OPENED_ANEW] += 1
    pipe.send(figures)


def _require_fresh(keystore: Keystore, ledger: Ledger) -> int:
    """Make sure that what was acknowledged to any process before is found now; return how many finds that took.

    Raises:
        StoreProblem: It is not.
    """
    for number in range(len(ledger.acknowledged)):
        acknowledged = ledger.acknowledged[number]
        found = keystore.find(TokenRecord(id=f"p{number}"))
        if (
            found is None
            or not acknowledged <= int((found.refresh_token or "-1").rpartition(".")[2]) <= ledger.begun[number]
        ):
            raise StoreProblem(f"found {found and found.refresh_token} after save {acknowledged} was acknowledged")
    return len(ledger.acknowledged)


@engine("two rotations at once")
def at_once(directory: Path, *, rounds: int = 3) -> Generator[Attempt]:
    """Rotate in two processes at the same moment: one goes after the other, and both complete."""
    ringed = RingedStore.made_in(directory)
    for _ in range(rounds):
        former = ringed.keys()
        with ExitStack() as stack:
            children = [stack.enter_context(Child(_rotate_on, ringed=ringed, times=1, pause_s=0.0)) for _ in range(2)]
            start_together(children)
            made = [child.hear()[0][1] for child in children]
        ringed.require_whole()
        ringed.require_rotated(former)
        ringed.require_no_leftovers()
        # Each drops what the one before it has made; what neither drops is what is left.
        dropped = sorted(name for _, names_dropped in made for name in names_dropped)
        expected = sorted([*map(fingerprint, former), *(name for name, _ in made)])
        if sorted([*dropped, *map(fingerprint, ringed.keys())]) != expected:
            raise StoreProblem(f"not one after the other: of {names(former)} they made {made}")
        yield Attempt(tried=2)


@engine("a key that is put into the ring by hand during a rotation")
def key_by_hand(directory: Path) -> Generator[Attempt]:
    """Put a key into the ring with an editor during a rotation, and save with it: it is not one of the old keys."""
    ringed = RingedStore.made_in(directory)
    by_hand = Fernet.generate_key()

    def edit() -> None:
        write_private(ringed.ring, by_hand + b"\n" + ringed.ring.read_bytes())
        ringed.open().save(TokenRecord(id="1", refresh_token="by hand"))

    act_before_old_keys_are_dropped(edit)
    former = ringed.keys()
    ringed.rotate()
    if (found := ringed.tokens()) != TOKENS | {"1": "by hand"}:
        raise StoreProblem(f"the store holds {found}")
    if ringed.sealing_key() != by_hand or set(former).intersection(ringed.keys()):
        raise StoreProblem(f"in the ring are {names(ringed.keys())} after {names(former)}")
    yield Attempt()


@engine("a rotation beside a refresh")
def beside_a_lease(directory: Path, *, wait_s: float = _WAIT_S) -> Generator[Attempt]:
    """Rotate while a process refreshes a token: it keeps its lease, others wait, and find what comes of it."""
    ringed = RingedStore.made_in(directory)
    with Child(_refresh, ringed=ringed) as holder:
        holder.hear()
        before = ringed.document()["tokens"]
        if not any(held.get("refresh") for held in before):
            raise StoreProblem("there is no lease, so nothing was tried")
        ringed.rotate()
        if (after := ringed.document()["tokens"]) != before:
            raise StoreProblem(f"the records were {before} and are {after}")
        # One that waits in vain goes on without a lease; had it been given one, it would not have waited.
        waited_s = timed(lambda: ringed.open(refresh_wait=wait_s).get_for_use("1"))
        if waited_s < wait_s:
            raise StoreProblem(f"the lease does not hold: another process has waited for {waited_s:.3f} s only")
        holder.tell()
        holder.hear()
        found = ringed.open(refresh_wait=_SLOW_S).get_for_use("1")
        if found is None or found.access_token != "renewed":
            raise StoreProblem("what the holder of the lease has renewed is not there")
        if any(held.get("refresh") for held in ringed.document()["tokens"]):
            raise StoreProblem("the lease outlives the refresh")
    yield Attempt()


def _refresh(pipe: Connection, *, ringed: RingedStore) -> None:
    keystore = ringed.open(refresh_wait=_SLOW_S)
    # Without an access token it has to be refreshed.
    keystore.get_for_use("1")
    pipe.send("its turn")
    pipe.recv()
    keystore.save(TokenRecord(id="1", access_token="renewed"))
    pipe.send("saved")


@engine("rotations while a lock is taken")
def taken_locks(directory: Path, *, wait_s: float = _WAIT_S) -> Generator[Attempt]:
    """Rotate while the store's lock is kept, and while the ring's is: it gives up in time, and changes nothing."""
    ringed = RingedStore.made_in(directory)
    former, before = ringed.keys(), ringed.content()

    def require_refusal(file: Path) -> None:
        try:
            ringed.rotate(lock_timeout=wait_s)
        except LockTimeoutError as error:
            if error.path != Store(file, b"").lock_path:
                raise StoreProblem(f"{file.name}: the error names another file: {error}") from error
        else:
            raise StoreProblem(f"{file.name}: its lock was taken, and broken")

    for file in (ringed.path, ringed.ring):
        with Child(_keep_lock, file=file) as holder:
            holder.hear()
            waited_s = timed(partial(require_refusal, file))
            if not wait_s <= waited_s < wait_s + _SLOW_S:
                raise StoreProblem(f"{file.name}: it has waited for {waited_s:.2f} s")
            if ringed.content() != before:
                raise StoreProblem(f"{file.name}: its lock was taken, and something has changed")
        yield Attempt()
    ringed.recover(former)


def _keep_lock(pipe: Connection, *, file: Path) -> None:
    fd = os.open(Store(file, b"").lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    pipe.send("inside")
    pipe.recv()
