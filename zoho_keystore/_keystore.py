"""The service: find, save, delete and list records, on any vault. What the SDK's stores and the command line share."""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._fs.directory import make_directories
from zoho_keystore._fs.paths import default_store, real_path
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._leases import RefreshCoordinator, needs_refresh
from zoho_keystore._records import (
    CREDENTIAL_FIELDS,
    MAX_COUNTER,
    MAX_ID_CHARACTERS,
    Criteria,
    TokenRecord,
    created,
    criteria,
    merged,
    updated,
)
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import ConfigurationError, DurabilityUnknownError, InvalidTokenError, TokenNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from zoho_keystore._storage import ReadableStorage, Storage, Transaction

_log = logging.getLogger(__name__)

FILE_VARIABLE = "ZOHO_KEYSTORE_FILE"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Taken(NamedTuple):
    """What became of a record that was to be taken in.

    Attributes:
        record: The record as it is stored now; the given one, if it is not.
        what: "added", "updated", "left" (the stored one is as good), or "without a token" (there is nothing to keep).
    """

    record: TokenRecord
    what: str


class _DryRunError(Exception):
    """Ends a transaction that was not meant."""


class Keystore:
    """The records of one vault, and the rules of which record a token means.

    Safe for threads, and as safe for processes as its vault.

    Args:
        vault: Where the records rest.
        now_ms: The clock, in milliseconds since the epoch.
        refresh_wait: For how many seconds a token that is due for a refresh waits for another thread or process that
            refreshes it; 0 for whoever only looks at tokens.
    """

    def __init__(self, storage: Storage, now_ms: Callable[[], int] = _now_ms, *, refresh_wait: float = 0.0) -> None:
        self._storage = storage
        self._now_ms = now_ms
        self._turns = RefreshCoordinator(storage, refresh_wait, now_ms=now_ms)

    @property
    def path(self) -> Path | None:
        """The store's file; None for one in memory."""
        return self._storage.path

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None; one that is due for a refresh in its turn, or as another renewed it."""
        record = self._storage.get(id)
        if record is not None and needs_refresh(record, self._now_ms()):
            record = self._turns.acquire(record)
        if record is None:
            _log.warning("%s: there is no token with the id %r", self._name, id)
        return record

    def find(self, wanted: TokenRecord) -> TokenRecord | None:
        """Return what the caller should go on with: its token, with what it lacks from the record that it means.

        Args:
            wanted: What the caller knows of the token. With an id, the record of that id is meant, if there is one; so
                asks who looks at a token or revokes it, and not who is about to refresh it.

        Returns:
            None when the token means no record.
        """
        if wanted.id and (record := self._storage.get(wanted.id)) is not None:
            return merged(wanted, record)
        found = _matching(self._storage, wanted)
        if not found:
            return None
        self._warn_if_ambiguous(found)
        token = merged(wanted, found[0])
        if not wanted.id and needs_refresh(token, self._now_ms()):
            record = self._turns.acquire(found[0], seen_as=partial(merged, wanted))
            return None if record is None else merged(wanted, record)
        return token

    def save(self, given: TokenRecord, *, saved: Callable[[TokenRecord], None] = lambda _record: None) -> TokenRecord:
        """Keep a token, and return its record as it is stored now.

        With an id, the record of that id is updated, or made; without, the record that the token means, or a new one.

        Args:
            given: The token.
            saved: Called with that record too, also before a DurabilityUnknownError.

        Raises:
            InvalidTokenError: The token means no record, and has nothing in it that could be used.
            DurabilityUnknownError: It is saved, and may not survive a power cut.
        """
        self._require_valid(given)
        record: TokenRecord | None = None
        try:
            with self._storage.transaction() as transaction:
                if given.id:
                    named = transaction.get(given.id)
                    found: Sequence[TokenRecord] = [named] if named is not None else []
                else:
                    found = _matching(transaction, given)
                # Greater than any other, also when the clock stands still or goes back: it tells which was saved last.
                now_ms = min(max(self._now_ms(), transaction.last_saved_at + 1), MAX_COUNTER - 1)
                if found:
                    record = updated(found[0], given, now_ms=now_ms)
                else:
                    self._require_usable(given)
                    record = created(given, id=given.id or transaction.new_id(), now_ms=now_ms)
                transaction.put(record)
        except DurabilityUnknownError:
            if record is not None:
                saved(record)
            raise
        # Not under the lock: a handler of the log may come back to this very store.
        self._warn_if_ambiguous(found)
        saved(record)
        return record

    def delete(self, *ids: str) -> None:
        """Remove the records of some ids, all of them or none.

        Raises:
            TokenNotFoundError: There is none for one of them.
        """
        with self._storage.transaction() as transaction:
            for id in dict.fromkeys(ids):
                if transaction.get(id) is None:
                    raise TokenNotFoundError(
                        f"there is no token with the id {id!r}; nothing was deleted",
                        "Ids are listed by get_tokens()",
                        self.path,
                    )
                transaction.remove(id)

    def import_records(
        self,
        given: Iterable[TokenRecord],
        *,
        dry_run: bool = False,
        progress: Callable[[], None] = lambda: None,
    ) -> list[Taken]:
        """Take records over from another store, all of them or none.

        One that means a stored record, by the rules but not by its id, which another store has given, updates it if it
        expires later, and is left otherwise. Another one is added, with its own id if that is free. So the same records
        taken in twice change nothing.

        Args:
            given: The records.
            dry_run: Only tell what would be done.
            progress: Called after each record.

        Raises:
            InvalidTokenError: One of them cannot be kept.
        """
        acquire: list[Taken] = []
        with suppress(_DryRunError), self._storage.transaction() as transaction:
            for record in given:
                acquire.append(self._taken(transaction, record))
                progress()
            if dry_run:
                raise _DryRunError
        return acquire

    def _taken(self, transaction: Transaction, given: TokenRecord) -> Taken:
        self._require_valid(given)
        if not (given.access_token or given.refresh_token or given.grant_token):
            return Taken(given, "without a token")
        found = _matching(transaction, replace(given, id="")) or _equal(transaction, given)
        now_ms = min(max(self._now_ms(), transaction.last_saved_at + 1), MAX_COUNTER - 1)
        if found:
            if (given.expires_at_ms or 0) <= (found[0].expires_at_ms or 0):
                return Taken(found[0], "left")
            record = updated(found[0], given, now_ms=now_ms)
        else:
            self._require_usable(given)
            is_free = given.id and transaction.get(given.id) is None
            record = created(given, id=given.id if is_free else transaction.new_id(), now_ms=now_ms)
        transaction.put(record)
        return Taken(record, "updated" if found else "added")

    def clear(self) -> None:
        """Remove all records; ids are not given again."""
        with self._storage.transaction() as transaction:
            transaction.clear()

    def records(self) -> Sequence[TokenRecord]:
        """Return all records in the order in which they were first saved."""
        return self._storage.records()

    def close(self) -> None:
        """Forget keys and records; the store cannot be used afterwards."""
        self._storage.close()

    @property
    def _name(self) -> str:
        return str(self.path or "the store in memory")

    def _warn_if_ambiguous(self, found: Sequence[TokenRecord]) -> None:
        if len(found) > 1:
            ids = ", ".join(repr(record.id) for record in found)
            _log.warning("%s: the token may be any of %s; the one saved last is taken", self._name, ids)

    def _require_valid(self, given: TokenRecord) -> None:
        if given.expires_in and given.expires_at_ms is None:
            raise InvalidTokenError(
                "the token's expires_in is not a whole number; nothing was saved",
                "It is the time in milliseconds since the epoch, as text",
                self.path,
            )

    def _require_usable(self, given: TokenRecord) -> None:
        if not (given.access_token or given.refresh_token or given.grant_token):
            raise InvalidTokenError(
                "the token means no stored one and has no access, refresh or grant token; nothing was saved",
                "Sign in first, with a grant token or a refresh token",
                self.path,
            )
        if len(given.id) > MAX_ID_CHARACTERS:
            raise InvalidTokenError(
                f"the token's id has {len(given.id)} characters; nothing was saved",
                f"An id may have {MAX_ID_CHARACTERS}",
                self.path,
            )


def _matching(reads: ReadableStorage, wanted: TokenRecord) -> Sequence[TokenRecord]:
    """Return the records that a token may mean, the one that was saved last first."""
    found = reads.find(criteria(wanted))
    if len(found) > 1:
        found = sorted(found, key=lambda record: record.saved_at, reverse=True)
    return found


def _equal(reads: ReadableStorage, wanted: TokenRecord) -> list[TokenRecord]:
    """Return the records with the same fields as one that fits no rule, such as an access token of a named client."""
    fields = [(name, value) for name in CREDENTIAL_FIELDS if (value := getattr(wanted, name))]
    token = next(field for field in fields if field[0] in {"access_token", "refresh_token", "grant_token"})
    found = reads.find([Criteria(*token)])
    return [record for record in found if all(getattr(record, name) == value for name, value in fields)]


def open_memory(*, refresh_wait: float = 0.0) -> Keystore:
    """Return a keystore in memory.

    Args:
        refresh_wait: As for :class:`Keystore`.
    """
    return Keystore(MemoryStorage(), refresh_wait=as_seconds("refresh_wait", refresh_wait))


def open_file(
    path: str | os.PathLike[str] | None = None,
    *,
    key: bytes | str | None = None,
    lock_timeout: float = 10.0,
    refresh_wait: float = 0.0,
    make: bool = True,
) -> Keystore:
    """Return the keystore in a file.

    Args:
        path: The file. None is the one that ``ZOHO_KEYSTORE_FILE`` names, else ``tokens.keystore`` in the user's data
            folder, which is made if need be; the folder of a file that was named has to be there.
        key: As for :func:`zoho_keystore._keys.sources.key_source`.
        lock_timeout: For how many seconds a write waits for the store's lock.
        refresh_wait: As for :class:`Keystore`.
        make: Whether to make it, empty and sealed, when it is not there.

    Raises:
        KeystoreError: One of its kinds, for whatever stands in the way; nothing was changed then.
    """
    timeout_s = as_seconds("lock_timeout", lock_timeout)
    wait_s = as_seconds("refresh_wait", refresh_wait)
    ring = key_ring(key)
    file = store_path(path)
    if make and path is None and not os.environ.get(FILE_VARIABLE):
        make_directories(file.parent)
    return Keystore(FileStorage(file, ring, lock_timeout=timeout_s, make=make), refresh_wait=wait_s)


def as_seconds(name: str, value: float) -> float:
    """Return an argument that is a length of time, which may be infinite.

    Raises:
        ConfigurationError: It is not a number of seconds from 0 on.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if seconds >= 0:
            return seconds
    raise ConfigurationError(f"{name} is not a number of seconds", "Give 0 or more")


def store_path(path: str | os.PathLike[str] | None) -> Path:
    """Return the file that a path argument means: a given one, else that of ``ZOHO_KEYSTORE_FILE``, else the default.

    Nothing is made.

    Raises:
        ConfigurationError: It is no path.
        UnsafeFileError: It leads over a link that another user planted.
    """
    given = path if path is not None else os.environ.get(FILE_VARIABLE) or None
    if given is None:
        return real_path(default_store())
    if isinstance(given, str | bytes | os.PathLike) and looks_like_key(os.fsdecode(given)):
        raise ConfigurationError("the path holds what looks like a key", "Pass the key as key=…, and a path as path")
    return real_path(given)
