"""How long to go on after a failure, and what to tell when the time is up."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from zoho_keystore._sql.failures import Failure
from zoho_keystore.errors import LockTimeoutError, StoreFileError, StoreUnavailableError

if TYPE_CHECKING:
    from zoho_keystore._storage.sql.sessions import SQLFailedError
    from zoho_keystore.errors import KeystoreError

#: Pauses between two attempts, in seconds: jittered, so that clients do not meet again.
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.5

#: What may pass by itself.
_PASSING = frozenset(
    (Failure.RETRY, Failure.LOCK_TIMEOUT, Failure.UNAVAILABLE, Failure.UNKNOWN_COMMIT, Failure.READ_ONLY)
)

_ADVICE = {
    Failure.UNAVAILABLE: "Check the host, the port and the parameters in the address, and that the server runs",
    Failure.READ_ONLY: "Use the server that takes writes: the primary, or another node",
    Failure.NO_TABLE: "Make the tables: zoho-keystore init",
    Failure.NO_DATABASE: "Check the name of the database at the end of the address (…/DATABASE), or create it",
    Failure.LOGIN: "Check the user, and its password, which a variable (ZOHO_KEYSTORE_SQL_PASSWORD) or a file of the "
    "driver holds",
    Failure.DENIED: "Check the name of the database, and what the user may do there; an administrator makes the "
    "tables, and permits their use, by what this prints: zoho-keystore init --print-sql",
}

#: In place of the advice above and of "Check the server's log": SQLite has no server.
_ADVICE_ON_FILES = {
    Failure.UNAVAILABLE: "Check the disk: zoho-keystore doctor",
    Failure.FILE: "Check who may read and write the file and its directory: zoho-keystore doctor",
    Failure.DENIED: "Check who may use the file and its directory: zoho-keystore doctor",
    Failure.DAMAGED: "Check the path; a store that is damaged is restored from a backup: zoho-keystore restore BACKUP",
    Failure.OTHER: "Check the database: zoho-keystore doctor",
}


class Patience:
    """Counts the time that is left for attempts of one call.

    Args:
        name: What messages call the store.
        longest_s: For how many seconds to go on.
    """

    def __init__(self, name: str, longest_s: float) -> None:
        self._name = name
        self._longest_s = longest_s
        self._deadline_s = time.monotonic() + longest_s
        self._pause_s = _FIRST_PAUSE_S

    @property
    def left_s(self) -> float:
        """For how many seconds to go on, at least 0."""
        return max(0.0, self._deadline_s - time.monotonic())

    def error_after(self, problem: SQLFailedError | None, *, in_doubt: bool = False) -> KeystoreError | None:
        """Wait before another attempt, and return None; or return the error to raise instead.

        Args:
            problem: What has failed; None is a conflict with another client.
            in_doubt: Whether an earlier attempt may have been committed.
        """
        failure = Failure.RETRY if problem is None else problem.failure
        if failure in _PASSING and (left_s := self.left_s) > 0:
            pause_s = self._pause_s * random.uniform(0.5, 1)  # noqa: S311 - no secret
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            time.sleep(min(left_s, pause_s))
            return None
        if in_doubt:
            return StoreUnavailableError(
                f"{self._name}: the connection broke during a commit, so whether the change is saved is not known"
                f"{_said(problem)}",
                "Look at the store when the server runs again: zoho-keystore list",
            )
        if failure in (Failure.RETRY, Failure.LOCK_TIMEOUT):
            return LockTimeoutError(
                f"{self._name}: could not acquire the lock within {self._longest_s:g} s: held by other clients"
                f"{_said(problem)}",
                "Try again; if a program hangs, end it"
                if _is_file(self._name)
                else "Try again; if a client hangs, end its connection at the server",
            )
        return failed(problem, self._name)


def failed(problem: SQLFailedError | None, name: str) -> KeystoreError:
    """Return the error for a failure that does not pass."""
    failure = Failure.OTHER if problem is None else problem.failure
    kind = StoreFileError if failure is Failure.NO_TABLE else StoreUnavailableError
    what = "the tables of the store are missing" if failure is Failure.NO_TABLE else "the database cannot be used"
    advice = _ADVICE_ON_FILES.get(failure) if _is_file(name) else None
    return kind(f"{name}: {what}{_said(problem)}", advice or _ADVICE.get(failure, "Check the server's log"))


def lost(name: str, what: str, *tables: str) -> StoreUnavailableError:
    """Return the error for a store that has lost a part of its rows or tables, which init does not make anew.

    Args:
        name: What messages call the store.
        what: What is gone.
        tables: The store's tables.
    """
    return StoreUnavailableError(
        f"{name}: {what}",
        "Restore the database from a backup of its server. If you have only a copy that the command backup made, drop "
        f"the tables {' and '.join(tables)}, then: zoho-keystore init && zoho-keystore restore COPY",
    )


def _is_file(name: str) -> bool:
    return name.startswith("sqlite:")


def _said(problem: SQLFailedError | None) -> str:
    return "" if problem is None else f" ({problem.said})"
