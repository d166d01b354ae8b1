"""One refresh for all processes: the lease on a record.

The SDK refreshes an expired token wherever it meets it. The store is the one place that all pass: who asks for a
record that the SDK is about to refresh first takes a lease on it, durably and under the store's lock, and the others
wait for what comes of it. A lease only ever delays: nobody waits longer than ``refresh_wait``, and then goes
on as if there were no leases.
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

#: For how long a lease is good, in milliseconds. The SDK's own request has no timeout.
LEASE_MS = 10_000

#: With less than this left, in milliseconds, the SDK refreshes an access token.
SDK_MARGIN_MS = 5_000

#: Pauses of those who wait, in seconds: they grow, since a refresh takes some tenths of a second.
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.05


def needs_refresh(token: TokenRecord, now_ms: int) -> bool:
    """Tell whether the SDK refreshes a token when it gets it.

    Args:
        token: The token as the SDK gets it.
        now_ms: The time, in milliseconds since the epoch.
    """
    if not token.refresh_token:
        return False
    if not token.access_token:
        return True
    return token.expires_at_ms is not None and token.expires_at_ms - now_ms < SDK_MARGIN_MS


@dataclass(frozen=True)
class Owner:
    """A thread of a process of a running system.

    Attributes:
        host: The host's name.
        boot: The run of the system and, in it, the space in which processes are numbered: containers have their own.
            Empty where neither can be known.
        pid: The process.
        thread: The thread, as the system numbers it.
        started: When the thread started, in ticks since the system did: a number comes back, with another start.
    """

    host: str
    boot: str
    pid: int
    thread: int
    started: int

    @classmethod
    def current(cls) -> Self:
        """Return the thread that calls."""
        pid, thread = os.getpid(), threading.get_native_id()
        return cls(socket.gethostname(), _boot(), pid, thread, _started(pid, thread) or 0)

    def may_be_alive(self) -> bool:
        """Tell whether the thread may still be at work. Of one on another host, nobody here can say that it is not."""
        if not self.boot or (self.host, self.boot) != (socket.gethostname(), _boot()):
            return True
        return _started(self.pid, self.thread) == self.started


@dataclass(frozen=True)
class Lease:
    """Who refreshes a token, and until when the others leave it to that thread.

    Attributes:
        owner: Who it is.
        deadline_ms: When the lease ends, in milliseconds since the epoch.
    """

    owner: Owner
    deadline_ms: int

    @classmethod
    def of(cls, record: TokenRecord) -> Self | None:
        """Return the lease that a record carries; None when there is none, or nothing that this release writes."""
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

    def blocks(self, me: Owner, now_ms: int) -> bool:
        """Tell whether a thread has to wait for its end.

        A deadline further away than a lease lasts comes from a clock that has since been set back.
        """
        return 0 < self.deadline_ms - now_ms <= LEASE_MS and self.owner != me and self.owner.may_be_alive()

    def as_fields(self) -> Mapping[str, Any]:
        """Return what stands for it in the document."""
        return {"owner": asdict(self.owner), "deadline": self.deadline_ms}


class RefreshCoordinator:
    """Whose turn it is to refresh the records of one vault.

    Args:
        vault: Where the records and their leases are.
        wait_s: For how many seconds somebody waits for another one's refresh; 0 switches leases off.
        now_ms: The clock that leases are timed by, which processes share, in milliseconds since the epoch.
        monotonic_s: The clock that waiting is measured by, which nobody can set, in seconds.
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
        self._has_told = False

    def acquire(
        self, record: TokenRecord, *, seen_as: Callable[[TokenRecord], TokenRecord] = lambda record: record
    ) -> TokenRecord | None:
        """Return a record that is due when it is the caller's turn to refresh it, or else as somebody has renewed it.

        After the longest wait, and at once where no lease can be written, it is returned as it is, as it would be
        without leases.

        Args:
            record: The record.
            seen_as: Returns the token that the SDK gets for a record, which tells whether it is due.

        Returns:
            None when the record was deleted meanwhile.

        Raises:
            KeystoreError: The vault cannot be read any more.
        """
        until_s = self._monotonic_s() + self._wait_s
        me = Owner.current()
        pause_s = _FIRST_PAUSE_S
        has_turn = False
        current: TokenRecord | None = record
        while current is not None and needs_refresh(seen_as(current), self._now_ms()) and not has_turn:
            left_s = until_s - self._monotonic_s()
            if left_s <= 0:
                break
            if self._is_free(current, me):
                try:
                    has_turn, current = self._take(current.id, me, seen_as, left_s)
                except KeystoreError as error:
                    self._tell(error)
                    break
            else:
                self._sleep(min(left_s, pause_s))
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
                current = self._storage.get(current.id)
        return current

    def _is_free(self, record: TokenRecord, me: Owner) -> bool:
        lease = Lease.of(record)
        return lease is None or not lease.blocks(me, self._now_ms())

    def _take(
        self, id: str, me: Owner, seen_as: Callable[[TokenRecord], TokenRecord], left_s: float
    ) -> tuple[bool, TokenRecord | None]:
        """Take the lease, if it is still free and needed; return whether it was, and the record as it is now."""
        with self._storage.transaction(left_s) as transaction:
            record = transaction.get(id)
            now_ms = self._now_ms()
            if record is None or not needs_refresh(seen_as(record), now_ms) or not self._is_free(record, me):
                return False, record
            transaction.put(replace(record, refresh=Lease(me, now_ms + LEASE_MS).as_fields()))
            return True, record

    def _tell(self, error: KeystoreError) -> None:
        if not self._has_told:
            self._has_told = True
            _log.debug("no lease on a refresh, so other processes may refresh the same token: %s", error)


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _started(pid: int, thread: int) -> int | None:
    """Return when a thread started; None when it has ended, also if its parent has not asked for its end yet."""
    try:
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])
