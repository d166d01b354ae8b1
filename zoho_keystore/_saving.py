"""What a save, an import and a sign-in do with the records of a transaction: the rules, without locks and logs."""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._records import (
    MAX_COUNTER,
    MAX_ID_CHARACTERS,
    Lookup,
    MatchRule,
    SignIns,
    TokenRecord,
    completed,
    created,
    lookups,
    updated,
)
from zoho_keystore.errors import InvalidTokenError, TokenNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_keystore._records import Match
    from zoho_keystore._storage import ReadableStorage, Transaction


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


def matching(storage: ReadableStorage, wanted: TokenRecord) -> Match | None:
    """Return the records that a token means, the one that was saved last first."""
    match = storage.find(lookups(wanted))
    if match is not None and len(match.records) > 1:
        match.records.sort(key=lambda record: record.saved_at, reverse=True)
    return match


def save_time(transaction: Transaction, now_ms: int) -> int:
    """Return a time greater than that of every save before, even when the clock stands still or was set back."""
    return min(max(now_ms, transaction.last_saved_at + 1), MAX_COUNTER - 1)


def require_valid(given: TokenRecord, path: Path | None) -> None:
    """Refuse a token whose expiry is not a number.

    Raises:
        InvalidTokenError: It is not.
    """
    if given.expires_in and given.expires_at_ms is None:
        raise InvalidTokenError(
            "the token's expires_in is not a whole number; nothing was saved",
            "It is the time in milliseconds since the epoch, as text",
            path,
        )


def require_usable(given: TokenRecord, path: Path | None) -> None:
    """Refuse a token that a new record cannot be made of.

    Raises:
        InvalidTokenError: It has no access, refresh or grant token, or its id is too long.
    """
    if not given.has_token:
        raise InvalidTokenError(
            "the token means no stored one and has no access, refresh or grant token; nothing was saved",
            "Sign in first, with a grant token or a refresh token",
            path,
        )
    if len(given.id) > MAX_ID_CHARACTERS:
        raise InvalidTokenError(
            f"the token's id has {len(given.id)} characters; nothing was saved",
            f"An id may have {MAX_ID_CHARACTERS}",
            path,
        )


def is_outdated(
    transaction: Transaction, given: TokenRecord, stored: TokenRecord | None, *, is_held: bool, path: Path | None
) -> bool:
    """Return whether the stored record of a token's id has a newer refresh token than the token.

    Args:
        transaction: Where the record is.
        given: The token.
        stored: The record of its id, if there is one.
        is_held: Whether this process has held a record of that id before. One that was started after the record was
            deleted has not: its token comes from the program, and so is a new sign-in under that id.
        path: The store's file, for error messages.

    Raises:
        TokenNotFoundError: The record was deleted since.
    """
    if stored is not None:
        return given.refresh_token != stored.refresh_token and transaction.is_retired(given)
    if not is_held or not transaction.is_retired(given):
        return False
    raise TokenNotFoundError(
        f"the token {given.id!r} was deleted; nothing was saved",
        "To add it again, save it without an id, or under another one",
        path,
    )


def import_record(
    transaction: Transaction, sign_ins: SignIns, given: TokenRecord, *, now_ms: int, path: Path | None
) -> ImportedRecord:
    """Import one record.

    Args:
        transaction: Where to.
        sign_ins: The sign-ins of all records of the transaction; a record that is put is added.
        given: The record.
        now_ms: The time, in milliseconds since the epoch.
        path: The store's file, for error messages.

    Raises:
        InvalidTokenError: It cannot be stored.
    """
    require_valid(given, path)
    if not given.has_token:
        return ImportedRecord(given, ImportResult.EMPTY)
    now_ms = save_time(transaction, now_ms)
    id = sign_ins.find(given)
    stored = None if id is None else transaction.get(id)
    if stored is not None:
        record = completed(stored, given, now_ms=now_ms)
        if record is stored:
            return ImportedRecord(stored, ImportResult.UNCHANGED)
    else:
        require_usable(given, path)
        # A record of another keystore keeps its age; one of another source is older than what programs have saved.
        record = replace(
            created(given, id=transaction.imported_id(given.id), now_ms=now_ms),
            created_at=given.created_at or now_ms,
            saved_at=given.saved_at,
            issued_at=given.issued_at,
        )
    transaction.put(record)
    sign_ins.add(record)
    return ImportedRecord(record, ImportResult.UPDATED if stored is not None else ImportResult.ADDED)


def finish_sign_in(
    transaction: Transaction, id: str, user_name: str | None, *, again: str | None, now_ms: int
) -> TokenRecord | None:
    """Name the user of a record that was just signed in, and put it in the place of the one that it renews.

    Args:
        transaction: Where it is.
        id: The record.
        user_name: The user's name; None if it is not known.
        again: The id of the record that was to be signed in again; None for none.
        now_ms: The time, in milliseconds since the epoch.

    Returns:
        The record as it is stored now, with the id that it has now; None when it was deleted meanwhile.
    """
    record = transaction.get(id)
    if record is None:
        return None
    now_ms = save_time(transaction, now_ms)
    record = replace(record, user_name=user_name or record.user_name, saved_at=now_ms)
    renewed = None if again is None else transaction.get(again)
    if renewed is not None and _is_other_user(renewed.user_name, user_name):
        renewed = None
    if renewed is None and user_name:
        match = transaction.find([Lookup(MatchRule.USER, "user_name", user_name, record.client_id)])
        others = [] if match is None else [one for one in match.records if one.id != id]
        renewed = max(others, key=lambda one: one.saved_at, default=None)
    if renewed is not None and renewed.id != id:
        transaction.remove(id)
        # Programs may know the record by the name that it has.
        name = renewed.user_name or record.user_name
        record = updated(renewed, replace(record, user_name=name), now_ms=now_ms)
    transaction.put(record)
    return record


def _is_other_user(stored: str | None, user_name: str | None) -> bool:
    """Return whether a record's user is known not to be the one that has signed in.

    A program may have given the record the user's address alone, or a name of its own, which tells nothing.
    """
    if not stored or not user_name or "@" not in stored:
        return False
    return stored not in {user_name, user_name.rpartition(":")[0]}
