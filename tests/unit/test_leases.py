"""Leases: who refreshes, who waits, for how long, and when a lease ends; with clocks that the tests move."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from zoho_keystore import _leases
from zoho_keystore._keystore import Keystore
from zoho_keystore._open import open_keystore, open_memory_keystore
from zoho_keystore._leases import LEASE_MS, SDK_MARGIN_MS, Lease, Owner, RefreshCoordinator, needs_refresh
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import LockTimeoutError, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW_MS = 1_800_000_000_000
STALE = TokenRecord(
    id="1",
    client_id="c",
    client_secret="s",
    refresh_token="r",
    access_token="old",
    expires_in=str(NOW_MS + SDK_MARGIN_MS - 1),
)
FRESH = replace(STALE, access_token="new", expires_in=str(NOW_MS + 3_600_000))

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="only /proc tells when threads started")


class World:
    """Both clocks, which only sleeping moves, and what happens at times of it."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.jump_ms = 0
        self.pauses: list[float] = []
        self.events: list[tuple[float, Callable[[], object]]] = []

    def now_ms(self) -> int:
        """Return the time that the system shows."""
        return NOW_MS + int(self.elapsed_s * 1000) + self.jump_ms

    def monotonic_s(self) -> float:
        """Return the time since the start."""
        return self.elapsed_s

    def sleep(self, seconds: float) -> None:
        """Let time go by."""
        assert seconds > 0
        self.pauses.append(seconds)
        self.elapsed_s += seconds
        for event in [event for event in self.events if event[0] <= self.elapsed_s]:
            self.events.remove(event)
            event[1]()

    def turns(self, storage: Any, wait_s: float = 10.0) -> RefreshCoordinator:
        """Return the turns of a vault in this world."""
        return RefreshCoordinator(storage, wait_s, now_ms=self.now_ms, monotonic_s=self.monotonic_s, sleep=self.sleep)


@pytest.fixture
def world() -> World:
    """Give clocks."""
    return World()


@pytest.fixture
def storage() -> MemoryStorage:
    """Give a vault with a record that is due."""
    storage = MemoryStorage()
    put(storage, STALE)
    return storage


def put(storage: Any, record: TokenRecord) -> None:
    """Store a record as it is."""
    with storage.transaction() as transaction:
        transaction.put(record)


def another(**fields: Any) -> Owner:
    """Return another thread of this process, which may be alive, or what the fields make of it."""
    # Its main thread is alive for sure, and is asked for as if it were not the one that calls.
    return replace(Owner.current(), **{"host": "another", **fields})


def lend(storage: Any, owner: Owner, *, ms: int = LEASE_MS, now_ms: int = NOW_MS) -> None:
    """Give somebody the lease."""
    put(storage, replace(STALE, refresh=Lease(owner, now_ms + ms).as_fields()))


def plain(record: TokenRecord | None) -> TokenRecord | None:
    """Return the record without its lease."""
    return record and replace(record, refresh=None)


def owner_of(storage: Any) -> Owner | None:
    """Return whose lease the record carries."""
    lease = Lease.of(storage.get("1"))
    return lease.owner if lease else None


# --- which tokens are due -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, True),
        ({"expires_in": str(NOW_MS + SDK_MARGIN_MS)}, False),
        ({"expires_in": str(NOW_MS - 10_000_000)}, True),
        ({"expires_in": None}, False),
        ({"expires_in": "soon"}, False),
        ({"access_token": None}, True),
        ({"access_token": None, "expires_in": None}, True),
        ({"refresh_token": None}, False),
        ({"refresh_token": ""}, False),
        ({"refresh_token": None, "access_token": None, "grant_token": "g"}, False),
    ],
)
def test_a_token_is_due_when_the_sdk_would_refresh_it(changes: dict[str, Any], *, due: bool) -> None:
    """With a refresh token, and no access token or one that expires in less than 5 s."""
    assert needs_refresh(replace(STALE, **changes), NOW_MS) is due


# --- taking a lease -------------------------------------------------------------------------------------------------


def test_who_comes_first_gets_the_lease_and_the_record(world: World, storage: MemoryStorage) -> None:
    """Without waiting; the lease names this thread and ends in 10 s."""
    assert world.turns(storage).acquire(STALE) == STALE
    assert Lease.of(storage.get("1") or STALE) == Lease(Owner.current(), NOW_MS + LEASE_MS)
    assert world.pauses == []


def test_a_lease_is_no_save(world: World, storage: MemoryStorage) -> None:
    """The time of the last save tells which of several tokens is meant."""
    world.turns(storage).acquire(STALE)
    assert plain(storage.get("1")) == STALE


def test_the_thread_that_has_the_lease_does_not_wait_for_itself(world: World, storage: MemoryStorage) -> None:
    """Its refresh has failed, and it tries again."""
    turns = world.turns(storage)
    turns.acquire(STALE)
    world.elapsed_s = 3
    assert plain(turns.acquire(STALE)) == STALE
    assert Lease.of(storage.get("1") or STALE) == Lease(Owner.current(), NOW_MS + 3000 + LEASE_MS)
    assert world.pauses == []


def test_a_save_ends_the_lease(world: World, storage: MemoryStorage) -> None:
    """Whoever saves."""
    world.turns(storage).acquire(STALE)
    Keystore(storage, world.now_ms).save(replace(STALE, access_token="new"))
    assert owner_of(storage) is None


def test_nobody_takes_a_lease_with_leases_switched_off(world: World, storage: MemoryStorage) -> None:
    """Nor waits for one."""
    lend(storage, another())
    assert world.turns(storage, wait_s=0).acquire(STALE) == STALE
    assert owner_of(storage) == another()
    assert world.pauses == []


def test_leases_are_per_record(world: World, storage: MemoryStorage) -> None:
    """Different tokens are refreshed side by side."""
    lend(storage, another())
    put(storage, replace(STALE, id="2"))
    assert world.turns(storage).acquire(replace(STALE, id="2")) == replace(STALE, id="2")
    assert world.pauses == []


# --- waiting --------------------------------------------------------------------------------------------------------


def test_who_waits_gets_the_renewed_record(world: World, storage: MemoryStorage) -> None:
    """As soon as it is there."""
    lend(storage, another())
    world.events.append((0.3, lambda: put(storage, FRESH)))
    assert world.turns(storage).acquire(STALE) == FRESH
    assert 0.3 <= world.elapsed_s <= 0.36


def test_pauses_grow_up_to_a_limit(world: World, storage: MemoryStorage) -> None:
    """Short ones at first, since a refresh may be about to end."""
    lend(storage, another())
    world.turns(storage, wait_s=3).acquire(STALE)
    assert world.pauses[0] <= 0.01
    assert world.pauses[:-1] == sorted(world.pauses[:-1])
    assert max(world.pauses) <= 0.05


@pytest.mark.parametrize("wait_s", [0.001, 2.0, 9.0])
def test_nobody_waits_longer_than_the_refresh_wait(world: World, storage: MemoryStorage, wait_s: float) -> None:
    """Then the record is returned as it is, and the lease stays its owner's."""
    lend(storage, another())
    assert world.turns(storage, wait_s).acquire(STALE) == storage.get("1")
    assert world.elapsed_s == pytest.approx(wait_s)
    assert owner_of(storage) == another()


def test_a_lease_that_nobody_ends_ends_at_its_deadline(world: World, storage: MemoryStorage) -> None:
    """The next one takes it over; the owner's refresh has failed."""
    lend(storage, another(), ms=4000)
    world.turns(storage).acquire(STALE)
    assert 4.0 <= world.elapsed_s <= 4.1
    assert owner_of(storage) == Owner.current()


def test_a_record_that_is_deleted_meanwhile_is_no_more(world: World, storage: MemoryStorage) -> None:
    """And not waited for."""

    def delete() -> None:
        with storage.transaction() as transaction:
            transaction.remove("1")

    lend(storage, another())
    world.events.append((0.5, delete))
    assert world.turns(storage).acquire(STALE) is None
    assert world.elapsed_s < 0.6


def test_a_record_that_was_deleted_before_the_lease_is_no_more(world: World) -> None:
    """Somebody was faster than the lock."""
    assert world.turns(MemoryStorage()).acquire(STALE) is None


def test_a_record_that_was_renewed_before_the_lease_needs_none(world: World, storage: MemoryStorage) -> None:
    """Somebody was faster than the lock."""
    put(storage, FRESH)
    assert world.turns(storage).acquire(STALE) == FRESH
    assert owner_of(storage) is None


def test_a_lease_that_was_taken_before_ours_is_waited_for(world: World, storage: MemoryStorage) -> None:
    """Somebody was faster than the lock."""
    lend(storage, another())
    world.events.append((0.2, lambda: put(storage, FRESH)))
    assert world.turns(storage).acquire(STALE) == FRESH
    assert world.elapsed_s >= 0.2


@pytest.mark.parametrize("jump_ms", [-3_600_000, -1, 9_000, 3_600_000])
def test_a_clock_that_is_set_holds_nobody_up_for_longer(world: World, storage: MemoryStorage, jump_ms: int) -> None:
    """Waiting is measured by a clock that nobody can set, and a deadline too far away is void."""

    def jump() -> None:
        world.jump_ms = jump_ms

    lend(storage, another())
    world.events.append((0.5, jump))
    world.turns(storage, wait_s=5).acquire(STALE)
    assert world.elapsed_s <= 5.001


def test_a_deadline_further_away_than_a_lease_lasts_is_void(world: World, storage: MemoryStorage) -> None:
    """The clock that it was taken from has been set back since."""
    lend(storage, another(), ms=LEASE_MS + 1)
    world.turns(storage).acquire(STALE)
    assert owner_of(storage) == Owner.current()
    assert world.pauses == []


# --- trouble is never an error --------------------------------------------------------------------------------------


class Unwritable:
    """A vault that can be read only."""

    path = None

    def __init__(self, storage: MemoryStorage, error: Exception) -> None:
        self._storage = storage
        self._error = error
        self.waits: list[float] = []

    def get(self, id: str) -> TokenRecord | None:
        """Read."""
        return self._storage.get(id)

    def transaction(self, longest_wait_s: float) -> Any:
        """Fail."""
        self.waits.append(longest_wait_s)
        raise self._error


@pytest.mark.parametrize("error", [StoreFileError("the file system is read-only"), LockTimeoutError("taken")])
def test_a_store_that_cannot_be_written_has_no_leases(
    world: World, storage: MemoryStorage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, at debug: nothing is lost by it but a request."""
    caplog.set_level(logging.DEBUG)
    turns = world.turns(Unwritable(storage, error))
    assert turns.acquire(STALE) == turns.acquire(STALE) == STALE
    assert [(entry.levelname, str(error) in entry.getMessage()) for entry in caplog.records] == [("DEBUG", True)]
    assert world.pauses == []


def test_the_lock_is_waited_for_no_longer_than_the_refresh(world: World, storage: MemoryStorage) -> None:
    """What was waited before counts."""
    lend(storage, another(), ms=4000)
    unwritable = Unwritable(storage, LockTimeoutError("taken"))
    world.turns(unwritable, wait_s=6).acquire(storage.get("1") or STALE)
    assert unwritable.waits == [pytest.approx(2.0, abs=0.1)]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"owner": "host:1", "deadline": NOW_MS + 5000},
        {"owner": {}, "deadline": NOW_MS + 5000},
        {"owner": asdict(another()), "deadline": str(NOW_MS + 5000)},
        {"owner": asdict(another()), "deadline": None},
        {"owner": {**asdict(another()), "pid": "../../1\0"}, "deadline": NOW_MS + 5000},
        {"owner": {**asdict(another()), "boot": []}, "deadline": NOW_MS + 5000},
    ],
)
def test_a_lease_that_cannot_be_understood_is_none(
    world: World, storage: MemoryStorage, fields: dict[str, object]
) -> None:
    """Another program may have written it."""
    put(storage, replace(STALE, refresh=fields))
    assert world.turns(storage).acquire(STALE) is not None
    assert owner_of(storage) == Owner.current()


def test_a_lease_with_more_in_it_than_this_release_writes_is_understood(world: World, storage: MemoryStorage) -> None:
    """A later release may add something."""
    lease = {"owner": {**asdict(another()), "user": 5}, "deadline": NOW_MS + 5000, "since": 1}
    put(storage, replace(STALE, refresh=lease))
    world.turns(storage).acquire(STALE)
    assert world.elapsed_s >= 5


# --- owners ---------------------------------------------------------------------------------------------------------


def test_an_owner_survives_the_document() -> None:
    """The lease that is read is the lease that was written."""
    lease = Lease(Owner.current(), 5)
    assert Lease.of(replace(STALE, refresh=lease.as_fields())) == lease


def test_the_thread_that_calls_is_alive() -> None:
    """As far as it knows."""
    assert Owner.current().may_be_alive()
    assert Owner.current() == Owner.current()


def test_two_threads_are_two_owners() -> None:
    """The SDK refreshes in each of them."""
    found: list[Owner] = []
    thread = threading.Thread(target=lambda: found.append(Owner.current()))
    thread.start()
    thread.join()
    assert found != [Owner.current()]
    assert found[0].pid == os.getpid()


@needs_proc
@pytest.mark.parametrize("end", ["killed and asked for", "killed"])
def test_a_process_that_was_killed_is_dead(end: str) -> None:
    """Also while its parent has not asked for its end."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        owner = another(host=Owner.current().host, pid=child.pid, thread=child.pid)
        owner = replace(owner, started=_leases._started(child.pid, child.pid) or 0)
        assert owner.may_be_alive()
        child.kill()
        if end == "killed":
            ends = time.monotonic() + 10
            while owner.may_be_alive() and time.monotonic() < ends:
                time.sleep(0.005)
            assert os.path.exists(f"/proc/{child.pid}")
        else:
            child.wait()
        assert not owner.may_be_alive()


@needs_proc
def test_a_thread_that_has_ended_is_dead() -> None:
    """Though its process goes on."""
    found: list[Owner] = []
    thread = threading.Thread(target=lambda: found.append(Owner.current()))
    thread.start()
    thread.join()
    # The system is done with a thread a moment after Python is.
    ends = time.monotonic() + 10
    while found[0].may_be_alive() and time.monotonic() < ends:
        time.sleep(0.001)
    assert not found[0].may_be_alive()


@needs_proc
def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    """Numbers come back; the time of the start does not."""
    assert not replace(Owner.current(), started=Owner.current().started - 1).may_be_alive()


@pytest.mark.parametrize("fields", [{"host": "another"}, {"boot": "another"}, {"boot": ""}])
def test_of_an_owner_elsewhere_nobody_can_say_that_it_is_dead(fields: dict[str, Any]) -> None:
    """Another host, another container, or a system that does not tell: its lease ends at its deadline."""
    assert replace(Owner.current(), started=1, **fields).may_be_alive()


def test_without_proc_owners_count_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""

    def no_proc(*_args: object, **_kwargs: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(_leases, "open", no_proc, raising=False)
    owner = Owner.current()
    assert (owner.boot, owner.started) == ("", 0)
    assert owner.may_be_alive()


@needs_proc
def test_the_lease_of_the_dead_is_taken_over_at_once(world: World, storage: MemoryStorage) -> None:
    """Nobody will end it."""
    lend(storage, replace(Owner.current(), started=1))
    world.turns(storage).acquire(STALE)
    assert owner_of(storage) == Owner.current()
    assert world.pauses == []


# --- the service ----------------------------------------------------------------------------------------------------


@pytest.fixture
def patient(world: World, storage: MemoryStorage) -> Keystore:
    """Give a keystore with leases; the record in it is due."""
    return Keystore(storage, world.now_ms, refresh_wait=0.05)


def test_getting_a_record_that_is_due_takes_the_lease(patient: Keystore, storage: MemoryStorage) -> None:
    """The SDK does so before each request."""
    assert patient.get("1") == STALE
    assert owner_of(storage) == Owner.current()


def test_finding_a_record_that_is_due_takes_the_lease(patient: Keystore, storage: MemoryStorage) -> None:
    """The SDK does so at its start."""
    found = patient.find(TokenRecord(client_id="c", client_secret="s", refresh_token="r"))
    assert found is not None
    assert found.access_token == "old"
    assert owner_of(storage) == Owner.current()


@pytest.mark.parametrize(
    "ask",
    [
        lambda keystore: keystore.records(),
        lambda keystore: keystore.find(TokenRecord(id="1")),
        lambda keystore: keystore.find(
            TokenRecord(access_token="own", refresh_token="r", client_id="c", client_secret="s")
        ),
    ],
    ids=["listing", "looking up an id, as revoke does", "with an access token that the SDK goes on with"],
)
def test_who_is_not_about_to_refresh_takes_no_lease(
    patient: Keystore, storage: MemoryStorage, ask: Callable[[Keystore], Any]
) -> None:
    """Others would wait for nothing."""
    assert ask(patient)
    assert owner_of(storage) is None


def test_no_lease_is_taken_on_a_record_that_is_not_due(patient: Keystore, storage: MemoryStorage) -> None:
    """That would be a write for nothing."""
    put(storage, FRESH)
    patient.get("1")
    patient.find(TokenRecord(client_id="c", client_secret="s", refresh_token="r"))
    assert storage.get("1") == FRESH


def test_a_keystore_takes_no_leases_unless_it_is_told_to(world: World, storage: MemoryStorage) -> None:
    """As the command line, which only looks."""
    Keystore(storage, world.now_ms).get("1")
    assert owner_of(storage) is None


def test_who_finds_a_token_that_another_thread_refreshes_gets_its_result(world: World, storage: MemoryStorage) -> None:
    """The renewed pair replaces the caller's own."""
    lend(storage, another())
    keystore = Keystore(storage, world.now_ms, refresh_wait=20)
    threading.Timer(0.1, lambda: put(storage, FRESH)).start()
    wanted = replace(STALE, id="")
    found = keystore.find(wanted)
    assert found is not None
    assert (found.access_token, found.expires_in) == (FRESH.access_token, FRESH.expires_in)


@pytest.mark.parametrize("ask", [lambda k: k.get("1"), lambda k: k.find(replace(STALE, id=""))], ids=["get", "find"])
def test_a_token_that_is_deleted_while_somebody_waits_is_not_found(
    world: World, storage: MemoryStorage, ask: Callable[[Keystore], Any]
) -> None:
    """As if it had never been there."""
    lend(storage, another())
    keystore = Keystore(storage, world.now_ms, refresh_wait=20)

    def delete() -> None:
        with storage.transaction() as transaction:
            transaction.clear()

    threading.Timer(0.1, delete).start()
    assert ask(keystore) is None


def test_a_lease_is_durable_in_a_file(store_path: Path, key: bytes) -> None:
    """Another keystore sees it, and its own save ends it."""
    with_leases = open_keystore(store_path, key=key, refresh_wait=5)
    other = open_keystore(store_path, key=key)
    with_leases.save(replace(STALE, id="1", expires_in="1"))
    assert with_leases.get("1") is not None
    [record] = other.records()
    lease = Lease.of(record)
    assert lease is not None
    assert lease.owner == Owner.current()
    other.save(FRESH)
    [record] = with_leases.records()
    assert record.refresh is None


def test_memory_has_leases_between_threads() -> None:
    """One thread refreshes, and the other gets its result."""
    keystore = open_memory_keystore(refresh_wait=20)
    keystore.save(replace(STALE, id="1", expires_in="1"))
    keystore.get("1")
    later = str(time.time_ns() // 1_000_000 + 3_600_000)
    got: list[TokenRecord | None] = []
    thread = threading.Thread(target=lambda: got.append(keystore.get("1")))
    thread.start()
    thread.join(0.2)
    assert got == []
    keystore.save(TokenRecord(id="1", access_token="new", expires_in=later))
    thread.join(20)
    assert [record and record.access_token for record in got] == ["new"]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_lease_is_given_up_when_the_lock_is_taken_for_too_long(
    kind: str, store_path: Path, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The refresh wait counts then, and not the longer one of the lock."""
    caplog.set_level(logging.DEBUG)
    keystore = (
        open_keystore(store_path, key=key, refresh_wait=0.2)
        if kind == "file"
        else open_memory_keystore(refresh_wait=0.2)
    )
    keystore.save(replace(STALE, id="1", expires_in="1"))
    acquire, done = threading.Event(), threading.Event()

    def hang() -> None:
        with keystore._storage.transaction():
            acquire.set()
            done.wait(20)

    thread = threading.Thread(target=hang)
    thread.start()
    acquire.wait(20)
    try:
        record = keystore.get("1")
    finally:
        done.set()
        thread.join()
    assert record is not None
    assert record.access_token == "old"
    assert "was not to be had within 0.2 s: another thread" in caplog.text
