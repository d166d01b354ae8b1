"""One refresh for all processes: the lease on a record.

The SDK refreshes an expired token wherever it meets it. The store is the one place that all processes pass: the process
that first asks for a record whose token has to be refreshed writes a lease into the record, under the store's lock
(:mod:`zoho_keystore._fs.lock`), and the others wait until the record is saved with a new token. A lease only delays: a
process waits for at most ``refresh_wait``, and then goes on as if there were no leases.

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
from typing import TYPE_CHECKING, Any, Self

from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoho_keystore._records import TokenRecord
    from zoho_keystore._storage import Storage

_log = logging.getLogger(__name__)

#: How long a lease lasts, in milliseconds. The SDK's own request has no timeout.
LEASE_MS = 10_000

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
    """A thread of a process of a running system.

    Attributes:
        host: The host's name.
        boot: Identifies the run of the system and the PID namespace; empty where neither is known.
        pid: The process.
        thread: The thread, as the kernel numbers it.
        started: When the thread started, in clock ticks since boot: thread numbers are used again.
    """

    host: str
    boot: str
    pid: int
    thread: int
    started: int

    @classmethod
    def current(cls) -> Self:
        """Return the calling thread."""
        pid, thread = os.getpid(), threading.get_native_id()
        return cls(socket.gethostname(), _boot(), pid, thread, _started(pid, thread) or 0)

    def may_be_alive(self) -> bool:
        """Return False if the thread has ended. Of a thread on another host that is unknown, and it may be alive."""
        if not self.boot or (self.host, self.boot) != (socket.gethostname(), _boot()):
            return True
        return _started(self.pid, self.thread) == self.started


@dataclass(frozen=True)
class Lease:
    """Which thread refreshes a token, and until when the others wait for it.

    Attributes:
        owner: The thread.
        deadline_ms: When the lease ends, in milliseconds since the epoch.
    """

    owner: Owner
    deadline_ms: int

    @classmethod
    def of(cls, record: TokenRecord) -> Self | None:
        """Return the lease that a record carries; None when there is none that this release understands."""
        match record.refresh:
            case {
                "owner": {
                    "host": str(host),
                    "boot": str(boot),
                    "pid": int(pid),
                    "thread": int(thread),
                    "started": int(started),
                },
                "deadline": int(deadline_ms),
            }:
                return cls(Owner(host, boot, pid, thread, started), deadline_ms)
        return None

    def blocks(self, caller: Owner, now_ms: int) -> bool:
        """Return whether a thread has to wait for the lease to end.

        A deadline further away than a lease lasts comes from a clock that has since been set back.
        """
        return 0 < self.deadline_ms - now_ms <= LEASE_MS and self.owner != caller and self.owner.may_be_alive()

    def as_fields(self) -> Mapping[str, Any]:
        """Return it as it is written into the record."""
        return {"owner": asdict(self.owner), "deadline": self.deadline_ms}


class RefreshCoordinator:
    """Let one thread at a time refresh a record of a storage.

    Args:
        storage: Where the records and their leases are.
        wait_s: For how many seconds to wait for another thread's refresh; 0 switches leases off.
        now_ms: The clock of the leases' deadlines, which processes share, in milliseconds since the epoch.
        monotonic_s: The clock that waits are measured by, which cannot be set, in seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        storage: Storage,
        wait_s: float,
        *,
        now_ms: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._storage = storage
        self._wait_s = wait_s
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._sleep = sleep
        self._has_logged = False

    def acquire(
        self, record: TokenRecord, *, seen_as: Callable[[TokenRecord], TokenRecord] = lambda record: record
    ) -> TokenRecord | None:
        """Return a record with the lease on it taken, or with the token that another thread has refreshed meanwhile.

        After the longest wait, and at once where no lease can be written, the record is returned as it is.

        Args:
            record: The record.
            seen_as: Returns the token that the SDK gets for a record; that one tells whether a refresh is needed.

        Returns:
            None when the record was deleted meanwhile.

        Raises:
            KeystoreError: The storage cannot be read any more.
        """
        deadline_s = self._monotonic_s() + self._wait_s
        caller = Owner.current()
        pause_s = _FIRST_PAUSE_S
        has_lease = False
        current: TokenRecord | None = record
        while current is not None and needs_refresh(seen_as(current), self._now_ms()) and not has_lease:
            left_s = deadline_s - self._monotonic_s()
            if left_s <= 0:
                break
            if self._is_free(current, caller):
                try:
                    has_lease, current = self._write_lease(current.id, caller, seen_as, left_s)
                except KeystoreError as error:
                    self._log_once(error)
                    break
            else:
                self._sleep(min(left_s, pause_s))
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
                current = self._storage.get(current.id)
        return current

    def _is_free(self, record: TokenRecord, caller: Owner) -> bool:
        lease = Lease.of(record)
        return lease is None or not lease.blocks(caller, self._now_ms())

    def _write_lease(
        self, id: str, caller: Owner, seen_as: Callable[[TokenRecord], TokenRecord], left_s: float
    ) -> tuple[bool, TokenRecord | None]:
        """Write the lease if it is still free and needed; return whether it was, and the record as it is now."""
        with self._storage.transaction(left_s) as transaction:
            record = transaction.get(id)
            now_ms = self._now_ms()
            if record is None or not needs_refresh(seen_as(record), now_ms) or not self._is_free(record, caller):
                return False, record
            transaction.put(replace(record, refresh=Lease(caller, now_ms + LEASE_MS).as_fields()))
            return True, record

    def _log_once(self, error: KeystoreError) -> None:
        if not self._has_logged:
            self._has_logged = True
            _log.debug("no lease on a refresh, so other processes may refresh the same token: %s", error)


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int, thread: int) -> int | None:
    """Return when a thread started; None when it has ended, even if its parent has not waited for it yet."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
