"""Seal all rows with another key, while other clients read and write.

1. The new key is announced: rows may be sealed with it or with the old ones from then on, and new ones are.
2. Rows of the old keys are sealed anew in batches, each row only if it still has the version that was read.
3. Under the lock, once no row of another key is left, the old keys are no longer announced.

A rotation that was interrupted is finished by another one. One that meets another, to a newer key, leaves the rest to
it. A client that has read the store before the first step cannot write a row with an old key after the third: its row
was sealed anew, and so has another version.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from zoho_keystore._storage.sql.patience import Patience
from zoho_keystore._storage.sql.reading import Reader, UnknownKeyError, as_text
from zoho_keystore._storage.sql.sessions import SQLFailedError
from zoho_keystore.errors import RotationUnfinishedError, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_keystore._storage.codec import Header
    from zoho_keystore._storage.sql.reading import StoreRow
    from zoho_keystore._storage.sql.sessions import Session
    from zoho_keystore._storage.sql.storage import SQLStorage

_T = TypeVar("_T")

#: Rows that are sealed anew in one transaction: their locks are held for some tens of milliseconds.
_BATCH = 200


class KeyRotation:
    """One rotation of a store, to the newest key of its ring.

    Args:
        storage: The storage; its ring has the new key and those that the store is sealed with.
        lock_timeout: For how many seconds each step waits for other clients.
        progress: Called with the number of rows that are sealed anew, and that of all rows of old keys.
    """

    def __init__(self, storage: SQLStorage, lock_timeout: float, progress: Callable[[int, int], None]) -> None:
        self._storage = storage
        self._lock_timeout_s = lock_timeout
        self._progress = progress
        self._new = storage.require_open().keys.fingerprints[0]
        self._done = 0
        self._has_announced = False

    def run(self) -> None:
        """Rotate.

        Raises:
            StoreFileError: What was sealed anew does not open to the same record.
            RotationUnfinishedError: Another rotation, to another key, has begun meanwhile.
            KeystoreError: As for a transaction. All rows can be read; another rotation finishes the work.
        """
        while True:
            old = self._step(self._announce)
            self._has_announced = True
            if not old:
                return
            total = self._done + sum(self._step(partial(self._count, name=name)) for name in old)
            for name in old:
                last = 0
                while sealed := self._step(partial(self._seal_batch, name=name, last=last)):
                    last = sealed[-1]
                    self._done += len(sealed)
                    self._progress(min(self._done, total), total)
            if self._step(self._finish):
                # Other clients have sealed some of the rows anew.
                self._progress(total, total)
                return

    def _step(self, step: Callable[[Session], _T]) -> _T:
        """Do a step in a transaction of its own; each can be done again, also when it is not known to be committed."""
        storage = self._storage
        patience = Patience(storage.name, self._lock_timeout_s)
        asked: set[str] = set()
        while True:
            problem: SQLFailedError | UnknownKeyError
            try:
                with storage.database.writing(patience.left_s) as session:
                    result = step(session)
                    session.commit()
            except (SQLFailedError, UnknownKeyError) as error:
                problem = error
            else:
                return result
            storage.recover(problem, patience, asked)

    def _locked(self, session: Session) -> StoreRow:
        session.run(self._storage.statements.lock)
        return Reader(self._storage.require_open(), session).store()

    def _announce(self, session: Session) -> tuple[str, ...]:
        """Announce the new key, and return the old ones, with those of rows whose key is not announced any more."""
        store = self._locked(session)
        self._require_newest(store)
        reader = Reader(self._storage.require_open(), session)
        names = dict.fromkeys((*store.key_names, *reader.key_names_of_rows()))
        old = tuple(name for name in names if name != self._new)
        known = self._storage.require_open().keys.fingerprints
        for name in old:
            # Announced, it would be asked for by every client.
            if name not in known:
                raise UnknownKeyError(name)
        if store.key_names != (self._new, *old):
            self._set_key_names(session, store.header, (self._new, *old))
        return old

    def _require_newest(self, store: StoreRow) -> None:
        """Stop if another rotation has announced its key since: the two would seal each other's rows without an end."""
        newest = store.key_names[0]
        if self._has_announced and newest != self._new:
            raise RotationUnfinishedError(
                f"{self._storage.name}: another rotation seals the rows with the key {newest} meanwhile, so this one, "
                f"to {self._new}, has stopped",
                "Let the other one end, give all machines the same keys in the same order, and rotate again",
            )

    def _set_key_names(self, session: Session, header: Header, names: tuple[str, ...]) -> None:
        known = self._storage.require_open()
        sealed = known.view.sealer.seal_header(header, self._new)
        session.run(known.statements.set_key_names, (",".join(names), sealed))

    def _count(self, session: Session, *, name: str) -> int:
        return int(session.rows(self._storage.statements.count_of_key, (name,))[0][0])

    def _seal_batch(self, session: Session, *, name: str, last: int) -> list[int]:
        """Seal the next rows of an old key anew; return their places, none at the end."""
        known = self._storage.require_open()
        sealer = known.view.sealer
        changes: list[tuple[object, ...]] = []
        seqs: list[int] = []
        for seq, version, _, sealed in session.rows(known.statements.batch, (name, last, _BATCH)):
            record = sealer.open(seq, version, as_text(sealed))
            values = sealer.seal(record, seq, version + 1, self._new)
            if sealer.open(seq, version + 1, str(values[-1])) != record:
                raise StoreFileError(
                    f"{self._storage.name}: what was sealed anew does not open to the same record; it stays as it was",
                    "Check this machine's memory",
                )
            changes.append((*values, seq, version))
            seqs.append(seq)
        if changes:
            # A row that another client has changed meanwhile stays: it is sealed with the new key, or comes next time.
            session.run(known.statements.update, *changes)
        return seqs

    def _finish(self, session: Session) -> bool:
        """Withdraw the old keys; return False if there are rows of them."""
        store = self._locked(session)
        self._require_newest(store)
        # Of any other key, not only of those that are announced: such a row would not be found again.
        names = Reader(self._storage.require_open(), session).key_names_of_rows()
        if any(name != self._new for name in names):
            return False
        self._set_key_names(session, store.header, (self._new,))
        return True
