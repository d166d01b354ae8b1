"""Leases: which thread refreshes, which ones wait and for how long, and when a lease ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from zoho_keystore import _leases
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keystore import Keystore
from zoho_keystore._leases import (
    ENDED_LEASE_MS,
    FAILURE_MS,
    LEASE_MS,
    SDK_MARGIN_MS,
    Lease,
    Owner,
    RefreshCoordinator,
    needs_refresh,
)
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import LockTimeoutError, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW_MS = 1_800_000_000_000
EXPIRED = TokenRecord(
    id="1",
    client_id="c",
    client_secret="s",
    refresh_token="r",
    access_token="old",
    expires_in=str(NOW_MS + SDK_MARGIN_MS - 1),
)
REFRESHED = replace(EXPIRED, access_token="new", expires_in=str(NOW_MS + 3_600_000))
TIMEOUT_S = 20

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="only /proc tells when threads started")


class World:
    """Both clocks, which only sleeping advances, and events at times of it."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.jump_ms = 0
        self.pauses: list[float] = []
        self.events: list[tuple[float, Callable[[], object]]] = []

    def now_ms(self) -> int:
        """Return the time that the system shows."""
        return NOW_MS + int(self.elapsed_s * 1000) + self.jump_ms

    def sleep(self, seconds: float) -> None:
        """Advance the clocks."""
        assert seconds > 0
        self.pauses.append(seconds)
        self.elapsed_s += seconds
        for event in [event for event in self.events if event[0] <= self.elapsed_s]:
            self.events.remove(event)
            event[1]()

    def acquire(self, storage: Any, wait_s: float = 10.0) -> TokenRecord | None:
        """Ask for the record, as a thread does that read it when it had expired."""
        return self.coordinator(storage, wait_s).acquire(EXPIRED, self.is_ready)

    def is_ready(self, record: TokenRecord) -> bool:
        """Return whether the SDK does not refresh a record."""
        return not needs_refresh(record, self.now_ms())

    def coordinator(self, storage: Any, wait_s: float = 10.0) -> RefreshCoordinator:
        """Return a coordinator in this world."""
        return RefreshCoordinator(
            storage, wait_s, now_ms=self.now_ms, monotonic_s=lambda: self.elapsed_s, sleep=self.sleep
        )


@pytest.fixture
def world() -> World:
    """Give clocks."""
    return World()


@pytest.fixture
def storage() -> MemoryStorage:
    """Give a storage with a record whose token has expired."""
    storage = MemoryStorage()
    put(storage, EXPIRED)
    return storage


def put(storage: Any, record: TokenRecord) -> None:
    """Store a record as it is."""
    with storage.transaction() as transaction:
        transaction.put(record)


def clear(storage: Any) -> None:
    """Delete all records."""
    with storage.transaction() as transaction:
        transaction.clear()


def other_owner(**fields: Any) -> Owner:
    """Return a thread on another host, or what the fields make of it."""
    return replace(Owner.current(), **{"host": "another", **fields})


def lend(storage: Any, owner: Owner, *, ms: int = LEASE_MS) -> None:
    """Write a lease of an owner into the record."""
    put(storage, replace(EXPIRED, refresh=Lease(owner, NOW_MS + ms).as_fields()))


def lease_in(storage: Any) -> Lease | None:
    """Return the lease that the record carries."""
    return Lease.of(storage.get("1").refresh)


def owner_in(storage: Any) -> Owner | None:
    """Return the owner of the lease that the record carries."""
    lease = lease_in(storage)
    return lease.owner if lease else None


# --- Which tokens need a refresh ---


@pytest.mark.parametrize(
    ("changes", "expected"),
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
def test_needs_refresh_is_the_rule_of_the_sdk(changes: dict[str, Any], *, expected: bool) -> None:
    """With a refresh token, and no access token or one that expires in less than 5 s."""
    assert needs_refresh(replace(EXPIRED, **changes), NOW_MS) is expected


# --- Taking a lease ---


def test_lease_is_taken_by_the_first_thread_without_waiting(world: World, storage: MemoryStorage) -> None:
    """A lease on another record does not block; and a lease is no save, whose time decides between matching tokens."""
    put(storage, replace(EXPIRED, id="2", refresh=Lease(other_owner(), NOW_MS + LEASE_MS).as_fields()))
    assert world.acquire(storage) == EXPIRED
    assert lease_in(storage) == Lease(Owner.current(), NOW_MS + LEASE_MS)
    assert replace(storage.get("1") or REFRESHED, refresh=None) == EXPIRED
    assert world.pauses == []


def test_lease_ends_when_its_owner_asks_again_and_by_a_save(world: World, storage: MemoryStorage) -> None:
    """The owner's refresh has failed: it does not prolong its lease, and others do not wait for a minute."""
    world.acquire(storage)
    world.elapsed_s = 3
    world.acquire(storage)
    assert lease_in(storage) == Lease(None, failed_at_ms=NOW_MS + 3000)
    world.elapsed_s = 62
    world.acquire(storage)
    assert lease_in(storage) == Lease(None, failed_at_ms=NOW_MS + 3000)
    world.elapsed_s = 64
    world.acquire(storage)
    assert lease_in(storage) == Lease(Owner.current(), NOW_MS + 64_000 + LEASE_MS)
    assert world.pauses == []
    Keystore(storage, world.now_ms).save(replace(EXPIRED, access_token="new"))
    assert lease_in(storage) is None


def test_lease_is_neither_taken_nor_waited_for_without_a_wait(world: World, storage: MemoryStorage) -> None:
    lend(storage, other_owner())
    assert world.acquire(storage, wait_s=0) == storage.get("1")
    assert owner_in(storage) == other_owner()
    assert world.pauses == []


# --- Waiting ---


@pytest.mark.parametrize("has_seen_lease", [False, True])
def test_waiting_thread_gets_the_refreshed_record(
    world: World, storage: MemoryStorage, *, has_seen_lease: bool
) -> None:
    """Soon after it is saved, and also when the lease was taken after the record was read."""
    lend(storage, other_owner())
    world.events.append((0.3, lambda: put(storage, REFRESHED)))
    record = storage.get("1") if has_seen_lease else EXPIRED
    assert world.coordinator(storage).acquire(record or REFRESHED, world.is_ready) == REFRESHED
    assert 0.3 <= world.elapsed_s <= 0.36
    assert world.pauses[0] <= 0.01


@pytest.mark.parametrize("wait_s", [0.001, 2.0, 4.9])
def test_wait_is_bounded_by_the_refresh_wait(world: World, storage: MemoryStorage, wait_s: float) -> None:
    """Then the record is returned as it is, and the lease stays its owner's."""
    lend(storage, other_owner())
    assert world.acquire(storage, wait_s) == storage.get("1")
    assert world.elapsed_s == pytest.approx(wait_s)
    assert owner_in(storage) == other_owner()


def test_lease_is_taken_over_at_its_deadline(world: World, storage: MemoryStorage) -> None:
    """The refresh of its owner on another host has failed."""
    lend(storage, other_owner(), ms=4000)
    world.acquire(storage)
    assert 4.0 <= world.elapsed_s <= 4.1
    assert owner_in(storage) == Owner.current()


@pytest.mark.parametrize("at_s", [0, 0.5])
def test_wait_ends_when_the_record_is_deleted(world: World, storage: MemoryStorage, at_s: float) -> None:
    """Before the lease is written, or while another thread has it."""
    lend(storage, other_owner())
    if at_s:
        world.events.append((at_s, lambda: clear(storage)))
    else:
        clear(storage)
    assert world.acquire(storage) is None
    assert world.elapsed_s == pytest.approx(at_s, abs=0.06)


def test_lease_is_not_taken_on_a_record_refreshed_meanwhile(world: World, storage: MemoryStorage) -> None:
    """Another thread was faster between the read and the lock."""
    put(storage, REFRESHED)
    assert world.acquire(storage) == REFRESHED
    assert lease_in(storage) is None


@pytest.mark.parametrize("jump_ms", [-3_600_000, -1, 9_000, 3_600_000])
def test_wait_is_bounded_when_the_clock_is_set(world: World, storage: MemoryStorage, jump_ms: int) -> None:
    lend(storage, other_owner())
    world.events.append((0.5, lambda: setattr(world, "jump_ms", jump_ms)))
    world.acquire(storage, wait_s=5)
    assert world.elapsed_s <= 5.001


# --- Storages and leases that cannot be used ---


class ReadOnly:
    """A storage that can only be read."""

    path = None

    def __init__(self, storage: MemoryStorage, error: Exception) -> None:
        self.get = storage.get
        self._error = error
        self.waits: list[float] = []

    def transact(self, _work: Any, longest_wait_s: float) -> Any:
        """Fail."""
        self.waits.append(longest_wait_s)
        raise self._error


@pytest.mark.parametrize("error", [StoreFileError("the file system is read-only"), LockTimeoutError("taken")])
def test_lease_that_cannot_be_written_is_skipped(
    world: World, storage: MemoryStorage, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """That is logged once, at debug: nothing is lost by it but a request."""
    caplog.set_level(logging.DEBUG)
    coordinator = world.coordinator(ReadOnly(storage, error))
    assert [coordinator.acquire(EXPIRED, world.is_ready) for _ in range(2)] == [EXPIRED, EXPIRED]
    assert [(entry.levelname, str(error) in entry.getMessage()) for entry in caplog.records] == [("DEBUG", True)]
    assert world.pauses == []


def test_wait_for_the_lock_is_bounded_by_what_is_left_of_the_wait(world: World, storage: MemoryStorage) -> None:
    """The time that the lease of another thread took counts."""
    lend(storage, other_owner(), ms=4000)
    read_only = ReadOnly(storage, LockTimeoutError("taken"))
    world.coordinator(read_only, wait_s=6).acquire(storage.get("1") or EXPIRED, world.is_ready)
    assert read_only.waits == [pytest.approx(2.0, abs=0.1)]


def test_lock_that_is_never_released_holds_up_one_look_up_a_minute(world: World, storage: MemoryStorage) -> None:
    """Each look-up would wait for the lock of a process that hangs, as each save does."""
    stuck = ReadOnly(storage, LockTimeoutError("taken"))
    coordinator = world.coordinator(stuck)
    for _ in range(3):
        assert coordinator.acquire(EXPIRED, world.is_ready) == EXPIRED
        world.elapsed_s += 19
    assert stuck.waits == [LEASE_MS / 1000]
    world.elapsed_s += 3
    coordinator.acquire(EXPIRED, world.is_ready)
    assert stuck.waits == [LEASE_MS / 1000] * 2


@pytest.mark.needs_proc("owner dead")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"owner": {}, "deadline": NOW_MS + 5000},
        {"owner": asdict(other_owner()), "deadline": str(NOW_MS + 5000)},
        {"owner": {**asdict(other_owner()), "pid": "../../1\0"}, "deadline": NOW_MS + 5000},
        Lease(other_owner(), NOW_MS - FAILURE_MS).as_fields(),
        Lease(other_owner(), NOW_MS + ENDED_LEASE_MS + 1).as_fields(),
        pytest.param(Lease(replace(Owner.current(), started=1), NOW_MS + 5000).as_fields(), marks=needs_proc),
    ],
    ids=[
        "empty",
        "no owner",
        "deadline as text",
        "pid as text",
        "ended a minute ago",
        "before the clock was set back",
        "owner dead",
    ],
)
def test_lease_that_is_void_is_taken_over_at_once(world: World, storage: MemoryStorage, fields: dict[str, Any]) -> None:
    """Another program may have written it, or its owner cannot end it by a save."""
    put(storage, replace(EXPIRED, refresh=fields))
    world.acquire(storage)
    assert owner_in(storage) == Owner.current()
    assert world.pauses == []


@pytest.mark.parametrize("owner", [other_owner(), None])
def test_lease_that_ended_without_a_save_is_not_waited_for(
    world: World, storage: MemoryStorage, owner: Owner | None
) -> None:
    """While refreshes fail, each request would otherwise wait for the next process that tries."""
    lease = Lease(owner, NOW_MS - 1) if owner else Lease(None, failed_at_ms=NOW_MS - 1)
    put(storage, replace(EXPIRED, refresh=lease.as_fields()))
    world.acquire(storage)
    assert lease_in(storage) == lease
    assert world.pauses == []


def test_lease_with_unknown_fields_is_respected(world: World, storage: MemoryStorage) -> None:
    lease = {"owner": {**asdict(other_owner()), "user": 5}, "deadline": NOW_MS + 5000, "since": 1}
    put(storage, replace(EXPIRED, refresh=lease))
    world.acquire(storage)
    assert world.elapsed_s >= 5


# --- Owners ---


def owner_in_ended_thread() -> Owner:
    """Return a thread that has ended."""
    found: list[Owner] = []
    thread = threading.Thread(target=lambda: found.append(Owner.current()))
    thread.start()
    thread.join()
    return found[0]


def is_soon_dead(owner: Owner) -> bool:
    """Tell whether an owner is found dead within some seconds: the kernel removes a thread a moment after Python."""
    ends = time.monotonic() + TIMEOUT_S
    while owner.may_be_alive() and time.monotonic() < ends:
        time.sleep(0.005)
    return not owner.may_be_alive()


def test_owner_is_a_thread_and_survives_the_codec() -> None:
    assert Owner.current() == Owner.current()
    assert Owner.current().may_be_alive()
    assert owner_in_ended_thread() != Owner.current()
    lease = Lease(Owner.current(), 5)
    assert Lease.of(lease.as_fields()) == lease


@pytest.mark.needs_proc
@needs_proc
def test_owner_that_has_ended_is_dead() -> None:
    """A thread of a process that goes on, and a process with the same number as an earlier one."""
    assert is_soon_dead(owner_in_ended_thread())
    assert not replace(Owner.current(), started=Owner.current().started - 1).may_be_alive()


@pytest.mark.needs_proc
@needs_proc
def test_owner_that_was_killed_is_dead_before_its_parent_waits_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        started = _leases._started(child.pid, child.pid) or 0
        owner = replace(Owner.current(), pid=child.pid, thread=child.pid, started=started)
        assert owner.may_be_alive()
        child.kill()
        assert is_soon_dead(owner)
        assert os.path.exists(f"/proc/{child.pid}")
        child.wait()
        assert not owner.may_be_alive()


@pytest.mark.parametrize("fields", [{"host": "another"}, {"boot": "another"}, {"boot": ""}])
def test_owner_elsewhere_may_be_alive(fields: dict[str, Any]) -> None:
    """On another host, in another container, or on a system that does not tell: its lease ends at its deadline."""
    assert replace(Owner.current(), started=1, **fields).may_be_alive()


def test_owner_without_proc_may_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:

    def no_proc(*_args: object, **_kwargs: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(_leases, "open", no_proc, raising=False)
    owner = Owner.current()
    assert (owner.boot, owner.started) == ("", 0)
    assert owner.may_be_alive()


# --- The service ---

WANTED = TokenRecord(client_id="c", client_secret="s", refresh_token="r")
FOR_USE: dict[str, Callable[[Keystore], TokenRecord | None]] = {
    "get_for_use": lambda keystore: keystore.get_for_use("1"),
    "find_for_use": lambda keystore: keystore.find_for_use(WANTED),
}


@pytest.mark.parametrize("call", FOR_USE)
def test_call_for_use_takes_the_lease_only_if_needed(call: str, world: World, storage: MemoryStorage) -> None:
    """A lease on a token that is still valid would be a write for nothing."""
    record = FOR_USE[call](Keystore(storage, world.now_ms, refresh_wait=0.05))
    assert record is not None
    assert record.access_token == "old"
    assert owner_in(storage) == Owner.current()
    put(storage, REFRESHED)
    assert FOR_USE[call](Keystore(storage, world.now_ms, refresh_wait=0.05)) == REFRESHED
    assert storage.get("1") == REFRESHED


@pytest.mark.parametrize("call", FOR_USE)
def test_call_for_use_waits_for_the_thread_that_refreshes(call: str, world: World, storage: MemoryStorage) -> None:
    """It gets the new token, and none if the record is deleted meanwhile."""
    keystore = Keystore(storage, world.now_ms, refresh_wait=TIMEOUT_S)
    for end, expected in ((lambda: put(storage, REFRESHED), "new"), (lambda: clear(storage), None)):
        lend(storage, other_owner())
        timer = threading.Timer(0.05, end)
        timer.start()
        record = FOR_USE[call](keystore)
        timer.join()
        assert (record and record.access_token) == expected


@pytest.mark.parametrize(
    "read",
    [
        lambda keystore: keystore.get("1"),
        lambda keystore: keystore.find(WANTED),
        lambda keystore: keystore.records(),
        lambda keystore: keystore.find_for_use(TokenRecord(id="1")),
        lambda keystore: keystore.find_for_use(replace(WANTED, access_token="own")),
    ],
    ids=["get", "find", "records", "find_for_use of an id, as revoke does", "find_for_use with a valid token"],
)
def test_call_that_only_reads_never_writes(
    read: Callable[[Keystore], Any], world: World, key: bytes, store_path: Path
) -> None:
    """Other processes would wait for a refresh that does not come."""
    storage = FileStorage(store_path, key_ring(key), lock_timeout=TIMEOUT_S)
    put(storage, EXPIRED)
    before = store_path.read_bytes()
    store_path.with_name(f".{store_path.name}.lock").unlink()
    assert read(Keystore(storage, world.now_ms, refresh_wait=TIMEOUT_S))
    assert store_path.read_bytes() == before
    assert [path.name for path in store_path.parent.iterdir()] == [store_path.name]


def refresh(keystore: Keystore, requests: list[str]) -> None:
    """Do as the SDK before a request: ask for the token, and refresh it if it has expired."""
    record = keystore.get_for_use("1")
    assert record is not None
    if needs_refresh(record, time.time_ns() // 1_000_000):
        requests.append("refresh")
        time.sleep(0.1)
        keystore.save(replace(record, access_token="new", expires_in=str(time.time_ns() // 1_000_000 + 3_600_000)))


def refresh_in_threads(keystore: Keystore) -> list[str]:
    """Do so in four threads, and return the requests that were sent."""
    requests: list[str] = []
    threads = [threading.Thread(target=partial(refresh, keystore, requests)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return requests


@pytest.mark.needs_fork
def test_processes_refresh_once(store_path: Path, key: bytes) -> None:
    """Three processes of four threads each meet an expired token at once."""
    open_keystore(store_path, key=key).save(replace(EXPIRED, expires_in="1"))
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(3)
    requests = fork.SimpleQueue()

    def work() -> None:
        keystore = open_keystore(store_path, key=key, refresh_wait=TIMEOUT_S)
        start.wait(TIMEOUT_S)
        requests.put(refresh_in_threads(keystore))

    children = [fork.Process(target=work) for _ in range(3)]
    for child in children:
        child.start()
    sent = [request for _ in children for request in requests.get()]
    for child in children:
        child.join()
    assert sent == ["refresh"]
    record = open_keystore(store_path, key=key).get("1")
    assert record is not None
    assert (record.access_token, record.refresh) == ("new", None)


def test_lease_is_skipped_when_the_lock_is_held_for_half_of_the_refresh_wait(
    store_path: Path, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The refresh wait counts, and not the longer wait for the lock of a save."""
    caplog.set_level(logging.DEBUG)
    storage = FileStorage(store_path, key_ring(key), lock_timeout=TIMEOUT_S)
    put(storage, replace(EXPIRED, expires_in="1"))
    with FileStorage(store_path, key_ring(key), lock_timeout=TIMEOUT_S).transaction():
        record = Keystore(storage, refresh_wait=0.1).get_for_use("1")
    assert record is not None
    assert record.access_token == "old"
    assert "could not acquire the store's lock within 0.05 s" in caplog.text
