"""The service: find, save, delete, list and import records, on any storage. The SDK's stores and the CLI share it."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from zoho_keystore._leases import RefreshCoordinator, needs_refresh
from zoho_keystore._platform import quote
from zoho_keystore._records import (
    Match,
    SignIns,
    TokenRecord,
    created,
    exchange_keys,
    merged,
    updated,
)
from zoho_keystore._saving import (
    ImportedRecord,
    finish_sign_in,
    import_record,
    is_outdated,
    matching,
    require_usable,
    require_valid,
    save_time,
)
from zoho_keystore._storage import system_ms
from zoho_keystore.errors import DurabilityUnknownError, SignInNeededError, TokenNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from httpx import Auth
    from requests.auth import AuthBase

    from zoho_keystore._storage import ReadableStorage, Storage, Transaction

_log = logging.getLogger(__name__)


class _RollBackError(Exception):
    """Raised to roll back a dry run."""


class Keystore:
    """The records of one storage, without the SDK. Made by :func:`zoho_keystore.open_keystore`.

    Which record a token means is decided by the rules of ``zoho_keystore._records.MatchRule``. Safe for threads,
    and as safe for processes as its storage.

    Args:
        storage: Where the records rest.
        now_ms: The clock, in milliseconds since the epoch. None is that of the storage for all that its users share,
            and this machine's for the expiry of access tokens, as the SDK uses it.
        refresh_wait: For how many seconds ``get_for_use`` and ``find_for_use`` wait for another thread or process that
            refreshes the token; 0 switches leases off.
        session_timeout: After how many seconds from its sign-in on a record is taken for absent by all that looks
            records up; None is never. Saves and deletions still see it: a save updates it, and does not add another.
        named: The store's path and the spec of its keys, for commands in messages; None stands for the default.
    """

    def __init__(
        self,
        storage: Storage,
        now_ms: Callable[[], int] | None = None,
        *,
        refresh_wait: float = 0.0,
        session_timeout: float | None = None,
        named: tuple[str | None, str | None] = (None, None),
    ) -> None:
        self._storage = storage
        self._session_timeout_s = session_timeout
        self._now_ms = now_ms or storage.now_ms
        #: The SDK compares the expiry of an access token with this clock.
        self._local_ms = now_ms or system_ms
        self._refresh_wait_s = refresh_wait
        self._named = named
        #: The ids that this process has held a record of: see :meth:`save`.
        self._held_ids: set[str] = set()
        self._coordinator = RefreshCoordinator(storage, refresh_wait, now_ms=self._now_ms)

    @property
    def path(self) -> Path | None:
        """The store's file, absolute and without symbolic links; None for a store in memory or in a database."""
        return self._storage.path

    @property
    def name(self) -> str:
        """The store's file, or the address of its database without a password, as messages name it."""
        return self._storage.name

    def now_ms(self) -> int:
        """Return the time by the store's clock, in milliseconds since the epoch."""
        return self._now_ms()

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None.

        Raises:
            KeystoreError: The store cannot be read.
        """
        record = self._storage.get(id)
        return None if record is None or self._is_over(record) else record

    def get_for_use(self, id: str) -> TokenRecord | None:
        """Return the record of an id for a caller that is about to use its token, or None; may write a lease, and wait.

        If the token has to be refreshed, one caller at a time gets it and refreshes it; the others wait, for
        ``refresh_wait`` seconds at most, and get the new token.

        Raises:
            KeystoreError: The store cannot be read.
        """
        record = self.get(id)
        if record is not None and needs_refresh(record, self._local_ms()):
            record = self._coordinator.acquire(record, self._is_fresh)
        if record is None:
            _log.warning("%s", self.not_found(id))
        else:
            self._held_ids.add(id)
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
            KeystoreError: The store cannot be read; or it cannot be written, and the token's grant has to be exchanged,
                which can be done only once.
        """
        record = self._matching_one(self._storage, wanted)
        if record is None and wanted.id and not (wanted.has_token or wanted.user_name):
            raise self.not_found(wanted.id)
        if record is None and self._refresh_wait_s and not wanted.id and _needs_exchange(wanted, self._local_ms()):
            match = self._coordinator.acquire_exchange(
                exchange_keys(wanted)[0], partial(self._matching, wanted=wanted), is_one_time=not wanted.refresh_token
            )
            record = None if match is None else match.records[0]
        if record is None:
            return None
        self._held_ids.add(record.id)
        token = merged(wanted, record)
        if not wanted.id and needs_refresh(token, self._local_ms()):
            record = self._coordinator.acquire(record, lambda one: self._is_fresh(merged(wanted, one)))
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
        * A process that holds a token is not to bring it back after its record was deleted: its save by that id is
          refused. To add such a token again on purpose, save it without an id or under another one, or import it. A
          process that was started since then may save it.

        Args:
            given: The token.
            on_saved: Called with the record as it is stored now; also before a DurabilityUnknownError.

        Raises:
            InvalidTokenError: The token means no record, and has no access, refresh or grant token.
            TokenNotFoundError: The token of this id was deleted.
            DurabilityUnknownError: It is saved, and may not survive a power cut.
            KeystoreError: It was not saved.
        """
        require_valid(given, self.path)
        record: TokenRecord | None = None

        def work(transaction: Transaction) -> tuple[TokenRecord, Match | None, bool]:
            nonlocal record
            match: Match | None = None
            has_newer = False
            if given.id:
                stored = transaction.get(given.id)
                has_newer = is_outdated(transaction, given, stored, is_held=given.id in self._held_ids, path=self.path)
            else:
                match = matching(transaction, given)
                stored = None if match is None else match.records[0]
            now_ms = save_time(transaction, self._now_ms())
            if stored is None:
                require_usable(given, self.path)
                record = created(given, id=given.id or transaction.new_id(), now_ms=now_ms)
            else:
                record = stored if has_newer else updated(stored, given, now_ms=now_ms)
            if record is not stored:
                transaction.put(record)
            return record, match, has_newer

        try:
            saved, match, has_newer = self._storage.transact(work)
        except DurabilityUnknownError:
            if record is not None:
                on_saved(record)
            raise
        self._held_ids.add(saved.id)
        # Not under the lock: a handler of the log may call this very store.
        self._warn_if_ambiguous(match)
        if has_newer:
            _log.warning("%s: token %r was signed in again; its new refresh token stays", self._storage.name, saved.id)
        on_saved(saved)
        return saved

    def delete(self, *ids: str) -> None:
        """Delete the records of some ids, all of them or none.

        Raises:
            TokenNotFoundError: One of them has no record.
            KeystoreError: Nothing was deleted.
        """

        def work(transaction: Transaction) -> str | None:
            missing = next((id for id in ids if transaction.get(id) is None), None)
            if missing is None:
                for id in dict.fromkeys(ids):
                    transaction.remove(id)
            return missing

        missing = self._storage.transact(work)
        if missing is not None:
            raise self.not_found(missing, "; nothing was deleted")

    def clear(self) -> None:
        """Delete all records; their ids are not assigned again.

        Raises:
            KeystoreError: Nothing was deleted.
        """
        self._storage.transact(lambda transaction: transaction.clear())

    def records(self) -> Sequence[TokenRecord]:
        """Return all records in the order in which they were first saved.

        Raises:
            KeystoreError: The store cannot be read.
        """
        records = self._storage.records()
        self._held_ids.update(record.id for record in records)
        if self._session_timeout_s is None:
            return records
        return [record for record in records if not self._is_over(record)]

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
        records = list(given)
        imported: list[ImportedRecord] = []
        reported = 0

        def work(transaction: Transaction) -> None:
            nonlocal reported
            imported.clear()
            sign_ins = SignIns(transaction.records())
            for record in records:
                imported.append(import_record(transaction, sign_ins, record, now_ms=self._now_ms(), path=self.path))
                if len(imported) > reported:
                    reported += 1
                    progress()
            if dry_run:
                raise _RollBackError

        with suppress(_RollBackError):
            self._storage.transact(work)
        return imported

    def access_token(self, id: str, *, min_life: float = 60.0) -> str:
        """Return an access token of a record, refreshed if need be; may write a lease, wait, and ask Zoho.

        However many processes ask at the same moment, one of them refreshes the token.

        Args:
            id: The record.
            min_life: For how many seconds the access token has to live at least; up to 3,000, as Zoho's live for an
                hour.

        Raises:
            ConfigurationError: ``min_life`` is not such a number.
            TokenNotFoundError: No record has this id.
            SignInNeededError: Zoho does not accept its refresh token any more, it has none, or its session is over.
            ThrottledError: Zoho refuses access tokens for a while.
            ClientRefusedError: Zoho does not accept the client.
            ZohoUnreachableError: Zoho did not answer, or not as Zoho.
            KeystoreError: The store cannot be read or written.
        """
        from zoho_keystore._access import fresh_record  # noqa: PLC0415 - the network is needed only here

        return fresh_record(self, id, min_life_s=min_life).access_token or ""

    def auth(self, id: str, *, hosts: Sequence[str] = ()) -> AuthBase:
        """Return what ``requests`` takes as ``auth``: it adds a fresh access token, and renews one that Zoho refuses.

        Args:
            id: The record.
            hosts: Names of hosts, without a port, that the token may be sent to besides Zoho's API servers: by https,
                and to this machine (localhost, 127.0.0.1, ::1) by http too.

        Raises:
            ConfigurationError: The library ``requests`` is not installed, or ``hosts`` is a text. At a request: the
                token must not be sent there.
            KeystoreError: At a request: as :meth:`access_token`.
        """
        from zoho_keystore._http_auth import requests_auth  # noqa: PLC0415 - as above

        return requests_auth(self, id, hosts)

    def httpx_auth(self, id: str, *, hosts: Sequence[str] = ()) -> Auth:
        """Return what ``httpx`` takes as ``auth``, for its sync and async clients; otherwise as :meth:`auth`."""
        from zoho_keystore._http_auth import httpx_auth  # noqa: PLC0415 - as above

        return httpx_auth(self, id, hosts)

    def check_writable(self) -> None:
        """Make sure that a save would work, as far as that can be known without one.

        Raises:
            StoreFileError: A save would fail.
        """
        self._storage.check_writable()

    def require(self, id: str) -> TokenRecord:
        """Return the record of an id.

        Raises:
            TokenNotFoundError: There is none.
            SignInNeededError: Its session is over.
            KeystoreError: The store cannot be read.
        """
        record = self._storage.get(id)
        if record is None:
            raise self.not_found(id)
        if self._is_over(record):
            raise self.sign_in_needed(
                f"the session of the token {id!r} is over, which lasts for {self._session_timeout_s:g} s", id
            )
        return record

    def _is_over(self, record: TokenRecord) -> bool:
        if self._session_timeout_s is None:
            return False
        # Records of older releases do not tell when they were signed in.
        return self._now_ms() - (record.signed_in_at or record.created_at) > self._session_timeout_s * 1_000

    def lease(self, record: TokenRecord, is_ready: Callable[[TokenRecord], bool]) -> TokenRecord | None:
        """Return a record to be refreshed by the caller, or as another caller has refreshed it; writes, and may wait.

        Args:
            record: The record.
            is_ready: Returns whether a state of it needs no refresh (any more).

        Returns:
            None when it was deleted meanwhile.

        Raises:
            KeystoreError: The store cannot be written, so that a new token could not be kept.
        """
        return self._coordinator.acquire(record, is_ready, required=True)

    def change(self, id: str, change: Callable[[TokenRecord, int], TokenRecord]) -> TokenRecord | None:
        """Replace a record by what a function makes of it.

        Args:
            id: The record.
            change: Gets the record as it is stored now, and the time of a save; what it returns is stored.

        Returns:
            The record as it is stored now; None when there is none: one that was deleted stays deleted.

        Raises:
            KeystoreError: Nothing was changed.
        """

        def work(transaction: Transaction) -> TokenRecord | None:
            record = transaction.get(id)
            if record is not None and (changed := change(record, save_time(transaction, self._now_ms()))) != record:
                transaction.put(changed)
                return changed
            return record

        return self._storage.transact(work)

    def delete_if(self, condition: Callable[[TokenRecord], bool], *ids: str) -> list[str]:
        """Delete those of some records that meet a condition when it comes to it, and return their ids.

        Raises:
            KeystoreError: Nothing was deleted.
        """

        def work(transaction: Transaction) -> list[str]:
            records = [transaction.get(id) for id in dict.fromkeys(ids)]
            deleted = [record.id for record in records if record is not None and condition(record)]
            for id in deleted:
                transaction.remove(id)
            return deleted

        return self._storage.transact(work)

    def prove_writable(self) -> None:
        """Save the store as it is, before a code is spent that works once: only a save proves that saving works.

        Raises:
            KeystoreError: It cannot be saved.
        """
        self._storage.transact(lambda transaction: transaction.touch())

    def finish_sign_in(self, id: str, user_name: str | None, *, again: str | None = None) -> TokenRecord | None:
        """Name the user of a record that was just signed in, and put it in the place of the one that it renews.

        That is the record that was to be signed in again, unless it belongs to another user; else the one of the same
        user and client. It keeps its id, and what the new sign-in does not know.

        Args:
            id: The record.
            user_name: The user's name; None if it is not known.
            again: The id of the record that was to be signed in again.

        Returns:
            The record as it is stored now, with the id that it has now; None when it was deleted meanwhile.

        Raises:
            KeystoreError: Nothing was changed.
        """
        return self._storage.transact(
            lambda transaction: finish_sign_in(transaction, id, user_name, again=again, now_ms=self._now_ms())
        )

    def close(self) -> None:
        """Drop keys and records from memory; the store cannot be used afterwards."""
        self._storage.close()

    def _matching_one(self, storage: ReadableStorage, wanted: TokenRecord) -> TokenRecord | None:
        match = self._matching(storage, wanted)
        if match is None:
            return None
        self._warn_if_ambiguous(match)
        return match.records[0]

    def _matching(self, storage: ReadableStorage, wanted: TokenRecord) -> Match | None:
        match = matching(storage, wanted)
        if match is None or self._session_timeout_s is None:
            return match
        records = [record for record in match.records if not self._is_over(record)]
        return Match(match.rule, records) if records else None

    def _warn_if_ambiguous(self, match: Match | None) -> None:
        if match is not None and len(match.records) > 1:
            ids = ", ".join(repr(record.id) for record in match.records)
            _log.warning(
                "%s: the token matches %s by its %s; the one saved last is used",
                self._storage.name,
                ids,
                match.rule.value,
            )

    def _is_fresh(self, record: TokenRecord) -> bool:
        return not needs_refresh(record, self._local_ms())

    def not_found(self, id: str, more: str = "") -> TokenNotFoundError:
        """Return the error that says that no record has an id, and how many there are."""
        number = self._storage.count()
        # An error on a file starts with its path.
        place = "this store" if self.path is not None else self._storage.name
        count = "1 token" if number == 1 else f"{number:,} tokens"
        # No command lists a store in memory.
        has_commands = self.path is not None or self._named[0] is not None
        advice = f"List the ids with: {'zoho-keystore list' if has_commands else 'get_tokens()'}"
        error = TokenNotFoundError(f"there is no token {id!r} in {place}, which has {count}{more}", advice, self.path)
        error.name_store(*self._named)
        return error

    def sign_in_needed(self, problem: str, id: str, more: str = "") -> SignInNeededError:
        """Return the error that asks for another sign-in of a record."""
        error = SignInNeededError(problem, f"Sign in again: zoho-keystore login --id {quote(id)}{more}", self.path)
        error.name_store(*self._named)
        return error


def storage_of(keystore: Keystore) -> Storage:
    """Return where a keystore keeps its records, for operations on the store as a whole."""
    return keystore._storage  # noqa: SLF001 - of this module


def _needs_exchange(wanted: TokenRecord, now_ms: int) -> bool:
    """Return whether the SDK asks Zoho for an access token when no record is found."""
    return bool(exchange_keys(wanted)) and (not wanted.access_token or needs_refresh(wanted, now_ms))
