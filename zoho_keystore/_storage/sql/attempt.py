"""One run of the work of a transaction: without the lock of the store's row, or with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_keystore._sql.failures import Failure
from zoho_keystore._storage.sql.draft import Draft, Written
from zoho_keystore._storage.sql.reading import Reader
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_keystore._storage import Transaction
    from zoho_keystore._storage.sql.sessions import Session
    from zoho_keystore._storage.sql.storage import SQLStorage

#: Failures of a commit after which it may have worked.
IN_DOUBT = frozenset((Failure.UNAVAILABLE, Failure.UNKNOWN_COMMIT, Failure.OTHER))


class UnknownAttempt:
    """An attempt whose commit may have worked: the connection broke meanwhile.

    Args:
        written: What it has written.
        result: What its work returned.
    """

    def __init__(self, written: Written, result: Any) -> None:
        self.written = written
        self.result = result


class Attempt:
    """One run of a transaction's work.

    Args:
        storage: The storage.
        work: The work.
        unknown: An attempt before it whose commit may have worked.
    """

    def __init__(self, storage: SQLStorage, work: Callable[[Transaction], Any], unknown: UnknownAttempt | None) -> None:
        self._storage = storage
        self._work = work
        self._unknown = unknown
        self.result: Any = None
        self.written = Written([], [], None)

    def run_without_lock(self, longest_wait_s: float) -> None:
        storage = self._storage
        with storage.database.reading() as session:
            draft = Draft(Reader(storage.require_open(), session), has_lock=False)
            self.result = self._work(draft)
        if draft.is_changed:
            with storage.database.writing(longest_wait_s) as session:
                self._commit(draft, session)

    def run_with_lock(self, longest_wait_s: float) -> None:
        storage = self._storage
        with storage.database.writing(longest_wait_s) as session:
            if session.run(storage.statements.lock) != 1:
                Reader(storage.require_open(), session).store()  # Raises: there is no such row.
            reader = Reader(storage.require_open(), session)
            if self._unknown is not None and self._unknown.written.is_there(reader):
                self.result, self.written = self._unknown.result, self._unknown.written
                session.commit()
                return
            reader.store()
            draft = Draft(reader, has_lock=True)
            try:
                self.result = self._work(draft)
            except (KeystoreError, ValueError):
                # What the work has read may be what the attempt before has committed on this server alone.
                if self._unknown is not None:
                    session.commit()
                raise
            if draft.is_changed:
                self._commit(draft, session)
            elif self._unknown is not None:
                session.commit()

    def _commit(self, draft: Draft, session: Session) -> None:
        known = self._storage.require_open()
        self.written = draft.write(session)
        # Before the commit: the next transaction may begin right after it.
        known.note_saved(draft.last_saved_at)
        session.commit()
        for row in self.written.rows:
            known.keep(row)
