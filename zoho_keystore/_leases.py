"""One refresh for all processes: the lease on a record, and on the first exchange of a grant or refresh token.

The SDK refreshes an expired token wherever it meets it. The store is the one place that all processes pass: the process
that first asks for a record whose token has to be refreshed writes a lease into the record, under the store's lock
(:mod:`zoho_keystore._fs.lock`), and the others wait until the record is saved with a new token. Before a record exists,
the lease stands in the store's header, under a fingerprint of the grant or refresh token that is exchanged.

A lease only delays. A process waits for at most ``refresh_wait``, and then goes on as if there were no leases. A lease
is clearly shorter than that wait, so when a refresh fails or hangs, one waiting process after the other takes it over.
The SDK does not tell the store that a refresh has failed; a lease that ends without a save is the sign of it. For a
minute from then on, or until a save, processes that come do not wait for that record.

Only what hands out a token to be used takes a lease: the SDK's stores. Whatever only reads calls ``Keystore.get`` and
``Keystore.find``.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

from zoho_keystore import _platform as platform
from zoho_keystore.errors import KeystoreError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoho_keystore._records import Match, TokenRecord
    from zoho_keystore._storage import ReadableStorage, Storage, Transaction

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: The longest that a lease lasts, in milliseconds: half of the default ``refresh_wait``; with a shorter wait, half of
#: that. The SDK's own request has no timeout.
LEASE_MS = 5_000

#: The longest that a lease lasts whose owner ends it also when its refresh fails, in milliseconds; with a shorter
#: ``refresh_wait``, as long as that. On a busy machine a refresh takes seconds.
ENDED_LEASE_MS = 20_000

#: For how long after a failed refresh processes that come do not wait for the record, in milliseconds.
FAILURE_MS = 60_000

#: How many exchanges to remember: each is a grant or refresh token that a caller has made up or got from Zoho.
_MAX_EXCHANGES = 100

#: The SDK refreshes an access token that expires in less than this, in milliseconds.
SDK_MARGIN_MS = 5_000

#: Pauses between two looks at a record that another process refreshes, in seconds. A refresh takes some tenths of a
#: second.
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.05


def needs_refresh(token: TokenRecord, now_ms: int) -> bool:
    """Return whether the SDK refreshes a token when it gets it.

    Args:
        token: The token as the SDK gets it.
        now_ms: The time, in milliseconds since the epoch.
    """
    if not token.refresh_token:
        return False
    if not token.access_token:
        return True
    expires_at_ms = token.expires_at_ms
    return expires_at_ms is not None and expires_at_ms - now_ms < SDK_MARGIN_MS


@dataclass(frozen=True)
class Owner:
    """A thread or greenlet of a process of a running system.

    Attributes:
        host: The host's name.
        boot: Identifies the run of the system and the PID namespace; empty where neither is known.
        pid: The process.
        thread: The thread, as the kernel numbers it.
        started: When the thread started, in clock ticks since boot: thread numbers are used again.
        ident: ``threading.get_ident()``, which tells greenlets of one thread apart where gevent or eventlet has
            patched it.
    """

    host: str
    boot: str
    pid: int
    thread: int
    started: int
    ident: int = 0

    @classmethod
    def current(cls) -> Self:
        """Return the calling thread or greenlet."""
        pid, thread = os.getpid(), threading.get_native_id()
        return cls(socket.gethostname(), _boot(), pid, thread, _started(pid, thread) or 0, threading.get_ident())

    def may_be_alive(self) -> bool:
        """Return False if the thread has ended. Of a thread on another host that is unknown, and it may be alive."""
        if not self.boot or (self.host, self.boot) != (socket.gethostname(), _boot()):
            return True
        return _started(self.pid, self.thread) == self.started


@dataclass(frozen=True)
class Lease:
    """Which thread refreshes a token, and until when the others wait for it.

    Attributes:
        owner: The thread; None when its refresh has failed.
        deadline_ms: When the lease ends, in milliseconds since the epoch.
        failed_at_ms: When the last lease before this one ended without a save, likewise; 0 when none did.
    """

    owner: Owner | None
    deadline_ms: int = 0
    failed_at_ms: int = 0

    @classmethod
    def of(cls, fields: Mapping[str, Any] | None) -> Self | None:
        """Return the lease that the fields of a document stand for; None if there is none that this release knows."""
        match fields:
            case {
                "owner": {
                    "host": str(host),
                    "boot": str(boot),
                    "pid": int(pid),
                    "thread": int(thread),
                    "started": int(started),
                    **more,
                },
                "deadline": int(deadline_ms),
                **rest,
            }:
                owner = Owner(host, boot, pid, thread, started, _whole(more.get("ident")))
                return cls(owner, deadline_ms, _whole(rest.get("failed_at")))
            case {"failed_at": int(failed_at_ms)}:
                return cls(None, 0, failed_at_ms)
        return None

    def blocks(self, caller: Owner, now_ms: int) -> bool:
        """Return whether another thread has to wait for the lease to end.

        A deadline further away than a lease lasts comes from a clock that has since been set back.
        """
        return self.is_running(now_ms) and self.owner != caller and self.owner is not None and self.owner.may_be_alive()

    def is_running(self, now_ms: int) -> bool:
        """Return whether the lease has not ended by time."""
        return self.owner is not None and 0 < self.deadline_ms - now_ms <= ENDED_LEASE_MS

    def recent_failure_ms(self, now_ms: int) -> int:
        """Return when a lease ended without a save, if that was less than a minute ago; otherwise 0.

        An owner that was killed says nothing of Zoho: its successors have to refresh one at a time as ever.
        """
        failed_at_ms = self.failed_at_ms
        if self.owner is not None and self.deadline_ms <= now_ms and self.owner.may_be_alive():
            failed_at_ms = max(failed_at_ms, self.deadline_ms)
        return failed_at_ms if 0 <= now_ms - failed_at_ms < FAILURE_MS else 0

    def matters(self, now_ms: int) -> bool:
        """Return whether the lease runs, or ended without a save less than a minute ago."""
        return self.is_running(now_ms) or self.recent_failure_ms(now_ms) > 0

    def has_failed_for(self, caller: Owner, now_ms: int) -> bool:
        """Return whether a thread that comes now goes on without waiting: a lease has just ended without a save.

        The thread that has the lease itself does not: it has to give it back first.
        """
        return self.recent_failure_ms(now_ms) > 0 and not (self.owner == caller and self.is_running(now_ms))

    def as_fields(self) -> Mapping[str, Any]:
        """Return it as it is written into the document."""
        failed = {"failed_at": self.failed_at_ms} if self.failed_at_ms else {}
        return failed if self.owner is None else {"owner": asdict(self.owner), "deadline": self.deadline_ms, **failed}


class _View(NamedTuple, Generic[_T]):
    """What a thread sees of the token that it waits for.

    Attributes:
        found: What it asked for, as it is now.
        is_ready: Whether no refresh or exchange is needed any more.
        lease: The lease on it, if there is one.
    """

    found: _T
    is_ready: bool
    lease: Lease | None


class RefreshCoordinator:
    """Let one thread at a time refresh a record of a storage, or exchange a grant or refresh token for a new record.

    Args:
        storage: Where the records and their leases are.
        wait_s: For how many seconds to wait for another thread's refresh; 0 switches leases off.
        now_ms: The clock of the leases' deadlines, which processes share, in milliseconds since the epoch.
        monotonic_s: The clock that waits are measured by, which cannot be set, in seconds.
        sleep: Waits for so many seconds; None is ``time.sleep`` as it is at the time of the wait, since gevent may
            patch it later.
    """

    def __init__(
        self,
        storage: Storage,
        wait_s: float,
        *,
        now_ms: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self._storage = storage
        self._wait_s = wait_s
        self._lease_ms = int(min(LEASE_MS, wait_s * 500))
        self._ended_lease_ms = int(min(ENDED_LEASE_MS, wait_s * 1_000))
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._has_logged = False
        self._no_leases_until_s = 0.0

    def acquire(
        self, record: TokenRecord, is_ready: Callable[[TokenRecord], bool], *, required: bool = False
    ) -> TokenRecord | None:
        """Return a record with the lease on it taken, or with the token that another thread has refreshed meanwhile.

        After the longest wait, after a recent failure, and at once where no lease can be written, the record is
        returned as it is.

        Args:
            record: The record.
            is_ready: Returns whether a state of the record needs no refresh (any more).
            required: Take the lease also after a recent failure, and raise where it cannot be written. For callers that
                end the lease themselves when their refresh fails.

        Returns:
            None when the record was deleted meanwhile.

        Raises:
            KeystoreError: The storage cannot be read any more; or written, if the lease is required.
        """

        def look(storage: ReadableStorage) -> _View[TokenRecord | None]:
            current = storage.get(record.id)
            if current is None:
                return _View(None, is_ready=True, lease=None)
            return _View(current, is_ready(current), Lease.of(current.refresh))

        def put(transaction: Transaction, lease: Lease) -> None:
            # Only called where look() has found the record in the same transaction.
            transaction.put(replace(transaction.get(record.id) or record, refresh=lease.as_fields()))

        return self._coordinate(look, put, required=required)

    def acquire_exchange(
        self, key: str, find: Callable[[ReadableStorage], Match | None], *, is_one_time: bool = False
    ) -> Match | None:
        """Return None with the lease on an exchange taken, or the records that another thread has saved meanwhile.

        Args:
            key: Identifies what is exchanged: see :func:`zoho_keystore._records.exchange_keys`.
            find: Returns the records that the exchange makes.
            is_one_time: Whether a grant is exchanged, which cannot be had again: where the lease cannot be written, the
                save after the exchange would fail too.

        Raises:
            KeystoreError: The storage cannot be read any more; or, with ``is_one_time``, not be written.
        """

        def look(storage: ReadableStorage) -> _View[Match | None]:
            found = find(storage)
            return _View(found, found is not None, Lease.of(storage.exchanges().get(key)))

        def put(transaction: Transaction, lease: Lease) -> None:
            now_ms = self._now_ms()
            exchanges = transaction.exchanges()
            # Those that made no record are dropped in time, or the store would grow with every failed sign-in.
            kept = [
                other
                for other, fields in exchanges.items()
                if other != key and (known := Lease.of(fields)) is not None and known.matters(now_ms)
            ]
            kept = kept[-(_MAX_EXCHANGES - 1) :]
            transaction.set_exchanges({other: exchanges[other] for other in kept} | {key: lease.as_fields()})

        return self._coordinate(look, put, must_write=is_one_time)

    def _coordinate(
        self,
        look: Callable[[ReadableStorage], _View[_T]],
        put: Callable[[Transaction, Lease], None],
        *,
        required: bool = False,
        must_write: bool = False,
    ) -> _T:
        deadline_s = self._monotonic_s() + self._wait_s
        caller = Owner.current()
        pause_s = _FIRST_PAUSE_S
        view = look(self._storage)
        if not required and view.lease is not None and view.lease.has_failed_for(caller, self._now_ms()):
            return view.found
        while not view.is_ready and (left_s := deadline_s - self._monotonic_s()) > 0:
            if self._monotonic_s() < self._no_leases_until_s and not (required or must_write):
                break
            if view.lease is not None and view.lease.blocks(caller, self._now_ms()):
                (self._sleep or time.sleep)(min(left_s, pause_s))
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
                view = look(self._storage)
                continue
            lock_wait_s = self._lease_ms / 1000
            try:
                lease_ms = self._ended_lease_ms if required else self._lease_ms
                is_done, view = self._write_lease(look, put, caller, min(left_s, lock_wait_s), lease_ms)
            except KeystoreError as error:
                if required or must_write:
                    raise
                if isinstance(error, LockTimeoutError) and left_s >= lock_wait_s:
                    # A process that hangs with the lock would hold up each look-up, and the save after it again.
                    self._no_leases_until_s = self._monotonic_s() + FAILURE_MS / 1000
                self._log_once(error)
                break
            if is_done:
                break
        return view.found

    def _write_lease(
        self,
        look: Callable[[ReadableStorage], _View[_T]],
        put: Callable[[Transaction, Lease], None],
        caller: Owner,
        left_s: float,
        lease_ms: int,
    ) -> tuple[bool, _View[_T]]:
        """Write the lease if it is still free and needed; return whether the caller goes on now, and what it sees."""

        def work(transaction: Transaction) -> tuple[bool, _View[_T]]:
            view = look(transaction)
            now_ms = self._now_ms()
            lease = view.lease
            if view.is_ready or (lease is not None and lease.blocks(caller, now_ms)):
                return False, view
            if lease is not None and lease.owner == caller and lease.is_running(now_ms):
                # The thread that has the lease asks again: its refresh has failed. It must not prolong its lease.
                put(transaction, Lease(None, failed_at_ms=now_ms))
            else:
                failed_at_ms = 0 if lease is None else lease.recent_failure_ms(now_ms)
                put(transaction, Lease(caller, now_ms + lease_ms, failed_at_ms))
            return True, view

        return self._storage.transact(work, left_s)

    def _log_once(self, error: KeystoreError) -> None:
        if not self._has_logged:
            self._has_logged = True
            _log.debug("no lease on a refresh, so other processes may refresh the same token: %s", error)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _boot() -> str:
    if not platform.HAS_PROC:
        return ""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int, thread: int) -> int | None:
    """Return when a thread started; None when it has ended, even if its parent has not waited for it yet."""
    if not platform.HAS_PROC:
        return None
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
