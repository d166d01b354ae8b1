"""What a change of the records changes in the header: the counter of ids, the retired tokens, the first exchanges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_keystore._records import exchange_keys, id_number, retired_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoho_keystore._records import TokenRecord
    from zoho_keystore._storage.codec import Header

#: How many refresh tokens to remember as retired.
MAX_RETIRED = 1_000


def is_retired(header: Header, record: TokenRecord) -> bool:
    """Return whether a record's refresh token was deleted or replaced under its id, and not saved anew since."""
    return retired_key(record) in header.retired


def after_put(header: Header, record: TokenRecord, *, replaced: TokenRecord | None) -> Header:
    """Return the header after a record was added, or has taken the place of another one; the same if nothing changes.

    Args:
        header: The header before.
        record: The record.
        replaced: The record that had its id, if there was one.
    """
    if replaced is None or replaced.refresh_token != record.refresh_token:
        header = _retire(header, replaced, instead=record)
    if header.exchanges:
        done = exchange_keys(record)
        exchanges = {key: lease for key, lease in header.exchanges.items() if key not in done}
        if len(exchanges) < len(header.exchanges):
            header = header._replace(exchanges=exchanges)
    # An id that a caller chose must not be assigned to another record later, even after this one is deleted.
    if (number := id_number(record.id)) >= header.next_id:
        header = header._replace(next_id=number + 1)
    return header


def after_removal(header: Header, record: TokenRecord) -> Header:
    """Return the header after a record was removed."""
    return _retire(header, record)


def after_take_over(header: Header, other: Header, records: Iterable[TokenRecord]) -> Header:
    """Return the header of a store that has taken the records of another one, or of an older state of its own.

    Ids that either has assigned are not assigned again. Refresh tokens that either knows as deleted or replaced stay
    so, unless a record holds them.

    Args:
        header: The header.
        other: The header of the other store.
        records: The records as they are now.
    """
    own = set(map(retired_key, records))
    retired = dict.fromkeys([*other.retired, *header.retired])
    return header._replace(
        next_id=max(header.next_id, other.next_id),
        # Of a newer release: this one must not lose what it does not know.
        unknown={**other.unknown, **header.unknown},
        retired=tuple(one for one in retired if one not in own)[-MAX_RETIRED:],
    )


def _retire(header: Header, record: TokenRecord | None, *, instead: TokenRecord | None = None) -> Header:
    """Remember the refresh token of a record as retired, and that of the record that takes its place as not.

    With the record's id: under another id the token is saved on purpose, by a program that renames its record.
    """
    retired = header.retired
    if record is not None and (key := retired_key(record)):
        retired = (*retired, key)[-MAX_RETIRED:]
    if retired and instead is not None and (key := retired_key(instead)) in retired:
        retired = tuple(one for one in retired if one != key)
    return header if retired is header.retired else header._replace(retired=retired)
