"""The service: find, save, delete, list and import records, on any storage. The SDK's stores and the CLI share it."""

from __future__ import annotations

import enum
import logging
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._leases import RefreshCoordinator, needs_refresh
from zoho_keystore._records import (
    MAX_COUNTER,
    MAX_ID_CHARACTERS,
    Match,
    SignIns,
    TokenRecord,
    completed,
    created,
    exchange_keys,
    lookups,
    merged,
    updated,
)
from zoho_keystore.errors import DurabilityUnknownError, InvalidTokenError, TokenNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from zoho_keystore._storage import ReadableStorage, Storage, Transaction

_log = logging.getLogger(__name__)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class ImportResult(enum.Enum):
    """What an import did with a record."""

    ADDED = "added"
    UPDATED = "updated"
    UNCHANGED = "unchanged"  # The stored token is as good.
    EMPTY = "empty"  # The record has no access, refresh or grant token.


class ImportedRecord(NamedTuple):
    """A record that was to be imported.

    Attributes:
        record: The record as it is stored now; the given one, if it is not stored.
        result: What was done.
    """

    record: TokenRecord
    result: ImportResult


class _RollBackError(Exception):
    """Raised to roll back a dry run."""


class Keystore:
    """The records of one storage, without the SDK. Made by :func:`zoho_keystore.open_keystore`.

    Which record a token means is decided by the rules of :class:`zoho_keystore._records.MatchRule`. Safe for threads,
    and as safe for processes as its storage.

    Args:
        storage: Where the records rest.
        now_ms: The clock, in milliseconds since the epoch.
        refresh_wait: For how many seconds ``get_for_use`` and ``find_for_use`` wait for another thread or process that
            refreshes the token; 0 switches leases off.
        named: The store's path and the spec of its keys, for commands in messages; None stands for the default.
    """

    def __init__(
        self,
        storage: Storage,
        now_ms: Callable[[], int] = _now_ms,
        *,
        refresh_wait: float = 0.0,
        named: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self._storage = storage
        self._now_ms = now_ms
        self._refresh_wait_s = refresh_wait
        self._named = named
        self._coordinator = RefreshCoordinator(storage, refresh_wait, now_ms=now_ms)

    @property
    def path(self) -> Path | None:
        """The store's file, absolute and without symbolic links; None for a store in memory."""
        return self._storage.path

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None.

        Raises:
            KeystoreError: The store cannot be read.
        """
        return self._storage.get(id)

    def get_for_use(self, id: str) -> TokenRecord | None:
        """Return the record of an id for a caller that is about to use its token, or None; may write a lease, and wait.

        If the token has to be refreshed, one caller at a time gets it and refreshes it; the others wait, for
        ``refresh_wait`` seconds at most, and get the new token.

        Raises:
            KeystoreError: The store cannot be read.
        """
        record = self._storage.get(id)
        if record is not None and needs_refresh(record, self._now_ms()):
            record = self._coordinator.acquire(record)
        if record is None:
            _log.warning("%s", self.not_found(id))
        return record

    def find(self, wanted: TokenRecord) -> TokenRecord | None:
        """Return the token with what it lacks from the record that it means, and the fresher of the two access tokens.

        Args:
            wanted: What the caller knows of the token.

        Returns:
            None when the token means no record.

        Raises:
            KeystoreError: The store cannot be read.
        """
        record = self._matching_one(self._storage, wanted)
        return None if record is None else merged(wanted, record)

    def find_for_use(self, wanted: TokenRecord) -> TokenRecord | None:
        """Do as :meth:`find` for a caller that is about to use the token; may write a lease, and wait.

        Where the token means no record, and its grant or refresh token has to be exchanged, one caller at a time gets
        None and makes the exchange; the others wait, for ``refresh_wait`` seconds at most, and get the new record.

        No lease is taken for a token with an id: only a caller that looks at a token or revokes it names the id here.

        Raises:
            TokenNotFoundError: The token has nothing but an id, and there is no such record.
            KeystoreError: The store cannot be read.
        """
        record = self._matching_one(self._storage, wanted)
        if record is None and wanted.id and not (wanted.has_token or wanted.user_name):
            raise self.not_found(wanted.id)
        if record is None and self._refresh_wait_s and not wanted.id and _needs_exchange(wanted, self._now_ms()):
            match = self._coordinator.acquire_exchange(exchange_keys(wanted)[0], partial(_matching, wanted=wanted))
            record = None if match is None else match.records[0]
        if record is None:
            return None
        token = merged(wanted, record)
        if not wanted.id and needs_refresh(token, self._now_ms()):
            record = self._coordinator.acquire(record, seen_as=partial(merged, wanted))
            return None if record is None else merged(wanted, record)
        return token

    def save(
        self, given: TokenRecord, *, on_saved: Callable[[TokenRecord], None] = lambda _record: None
    ) -> TokenRecord:
        """Save a token durably, and return its record as it is stored now.

        With an id, the record of that id is updated or created; without, the one that the token means, or a new one.

        A process may hold a token for days, so what others did meanwhile stays:

        * Another access token of the stored refresh token, which expires earlier than the stored one, is not saved;
          the rest of the token is. The expiry of the stored access token itself can be changed.
        * A save by id of a refresh token that another one has replaced changes nothing. It is logged as a warning, and
          the stored record is returned.
        * A save by id of a refresh token whose record was deleted is refused. To add such a token again on purpose,
          save it without an id, or import it.

        Args:
            given: The token.
            on_saved: Called with the record as it is stored now; also before a DurabilityUnknownError.

        Raises:
            InvalidTokenError: The token means no record, and has no access, refresh or grant token.
            TokenNotFoundError: The token of this id was deleted.
            DurabilityUnknownError: It is saved, and may not survive a power cut.
            KeystoreError: It was not saved.
        """
        self._require_valid(given)
        record: TokenRecord | None = None
        match: Match | None = None
        is_outdated = False
        try:
            with self._storage.transaction() as transaction:
                if given.id:
                    stored = transaction.get(given.id)
                    is_outdated = self._is_outdated(transaction, given, stored)
                else:
                    match = _matching(transaction, given)
                    stored = None if match is None else match.records[0]
                now_ms = self._save_time(transaction)
                if stored is None:
                    self._require_usable(given)
                    record = created(given, id=given.id or transaction.new_id(), now_ms=now_ms)
                else:
                    record = stored if is_outdated else updated(stored, given, now_ms=now_ms)
                if record is not stored:
                    transaction.put(record)
        except DurabilityUnknownError:
            if record is not None:
                on_saved(record)
            raise
        # Not under the lock: a handler of the log may call this very store.
        self._warn_if_ambiguous(match)
        if is_outdated:
            _log.warning("%s: token %r was signed in again; its new refresh token stays", self._name, record.id)
        on_saved(record)
        return record

    def delete(self, *ids: str) -> None:
        """Delete the records of some ids, all of them or none.

        Raises:
            TokenNotFoundError: One of them has no record.
            KeystoreError: Nothing was deleted.
        """
        with self._storage.transaction() as transaction:
            for id in dict.fromkeys(ids):
                if transaction.get(id) is None:
                    raise self.not_found(id, "; nothing was deleted")
                transaction.remove(id)

    def clear(self) -> None:
        """Delete all records; their ids are not assigned again.

        Raises:
            KeystoreError: Nothing was deleted.
        """
        with self._storage.transaction() as transaction:
            transaction.clear()

    def records(self) -> Sequence[TokenRecord]:
        """Return all records in the order in which they were first saved.

        Raises:
            KeystoreError: The store cannot be read.
        """
        return self._storage.records()

    def import_records(
        self,
        given: Iterable[TokenRecord],
        *,
        dry_run: bool = False,
        progress: Callable[[], None] = lambda: None,
    ) -> list[ImportedRecord]:
        """Import records from another store, all of them or none.

        A record is of the same sign-in as a stored one if they share the refresh, grant or access token, and neither
        their refresh tokens nor their clients differ. Then the stored record gets what it lacks, and the access token
        that expires later. Another refresh token is another sign-in, even of the same user: it is added, and where a
        token means both, the record that a program has saved since is used. An added record keeps its id if this store
        never had a record of that id; ids that are not numbers are known for as long as their records are stored. So
        importing the same records twice changes nothing.

        Args:
            given: The records.
            dry_run: Only return what would be done.
            progress: Called after each record.

        Raises:
            InvalidTokenError: One of them cannot be stored.
            KeystoreError: Nothing was imported.
        """
        imported: list[ImportedRecord] = []
        with suppress(_RollBackError), self._storage.transaction() as transaction:
            sign_ins = SignIns(transaction.records())
            for record in given:
                imported.append(self._import(transaction, sign_ins, record))
                progress()
            if dry_run:
                raise _RollBackError
        return imported

    def _import(self, transaction: Transaction, sign_ins: SignIns, given: TokenRecord) -> ImportedRecord:
        self._require_valid(given)
        if not given.has_token:
            return ImportedRecord(given, ImportResult.EMPTY)
        now_ms = self._save_time(transaction)
        id = sign_ins.find(given)
        stored = None if id is None else transaction.get(id)
        if stored is not None:
            record = completed(stored, given, now_ms=now_ms)
            if record is stored:
                return ImportedRecord(stored, ImportResult.UNCHANGED)
        else:
            self._require_usable(given)
            id = transaction.imported_id(given.id)
            # A record of another keystore keeps its age; one of another source is older than what programs have saved.
            record = created(given, id=id, now_ms=now_ms)
            record = replace(record, created_at=given.created_at or now_ms, saved_at=given.saved_at)
        transaction.put(record)
        sign_ins.add(record)
        return ImportedRecord(record, ImportResult.UPDATED if stored is not None else ImportResult.ADDED)

    def close(self) -> None:
        """Drop keys and records from memory; the store cannot be used afterwards."""
        self._storage.close()

    @property
    def _name(self) -> str:
        return str(self.path or "the store in memory")

    def _save_time(self, transaction: Transaction) -> int:
        """Return a time greater than that of every save before, even when the clock stands still or was set back."""
        return min(max(self._now_ms(), transaction.last_saved_at + 1), MAX_COUNTER - 1)

    def _matching_one(self, storage: ReadableStorage, wanted: TokenRecord) -> TokenRecord | None:
        match = _matching(storage, wanted)
        if match is None:
            return None
        self._warn_if_ambiguous(match)
        return match.records[0]

    def _warn_if_ambiguous(self, match: Match | None) -> None:
        if match is not None and len(match.records) > 1:
            ids = ", ".join(repr(record.id) for record in match.records)
            _log.warning(
                "%s: the token matches %s by its %s; the one saved last is used", self._name, ids, match.rule.value
            )

    def not_found(self, id: str, more: str = "") -> TokenNotFoundError:
        """Return the error that says that no record has an id, and how many there are."""
        number = len(self._storage.records())
        place = "this store" if self.path is not None else "the store in memory"
        count = "1 token" if number == 1 else f"{number:,} tokens"
        # No command lists a store in memory.
        advice = f"List the ids with: {'zoho-keystore list' if self.path is not None else 'get_tokens()'}"
        error = TokenNotFoundError(f"there is no token {id!r} in {place}, which has {count}{more}", advice, self.path)
        error.name_store(*self._named)
        return error

    def _is_outdated(self, transaction: Transaction, given: TokenRecord, stored: TokenRecord | None) -> bool:
        """Return whether the stored record of a token's id has a newer refresh token than the token.

        Raises:
            TokenNotFoundError: The record was deleted.
        """
        refresh_token = given.refresh_token
        if not refresh_token or not transaction.is_retired(refresh_token):
            return False
        if stored is None:
            raise TokenNotFoundError(
                f"the token {given.id!r} was deleted; nothing was saved",
                "To add it again, save it without an id",
                self.path,
            )
        return refresh_token != stored.refresh_token

    def _require_valid(self, given: TokenRecord) -> None:
        if given.expires_in and given.expires_at_ms is None:
            raise InvalidTokenError(
                "the token's expires_in is not a whole number; nothing was saved",
                "It is the time in milliseconds since the epoch, as text",
                self.path,
            )

    def _require_usable(self, given: TokenRecord) -> None:
        if not given.has_token:
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


def _matching(storage: ReadableStorage, wanted: TokenRecord) -> Match | None:
    """Return the records that a token means, the one that was saved last first."""
    match = storage.find(lookups(wanted))
    if match is not None and len(match.records) > 1:
        match.records.sort(key=lambda record: record.saved_at, reverse=True)
    return match


def _needs_exchange(wanted: TokenRecord, now_ms: int) -> bool:
    """Return whether the SDK asks Zoho for an access token when no record is found."""
    return bool(exchange_keys(wanted)) and (not wanted.access_token or needs_refresh(wanted, now_ms))
