"""Which tokens are not needed any more. Pure: a policy over records."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoho_keystore._records import TokenRecord


class Candidate(NamedTuple):
    """A record that a policy would delete.

    Attributes:
        record: The record.
        reason: Why, in words.
    """

    record: TokenRecord
    reason: str


def candidates(
    records: Iterable[TokenRecord], *, now_ms: int, unusable: bool, not_saved_for_s: float | None
) -> list[Candidate]:
    """Return the records that a policy would delete.

    Args:
        records: The records.
        now_ms: The time, in milliseconds since the epoch.
        unusable: Those whose refresh token Zoho refuses, and expired ones that cannot be refreshed.
        not_saved_for_s: Those that were not saved for so many seconds; None keeps them.
    """
    found = []
    for record in records:
        if unusable and (reason := _why_unusable(record, now_ms)):
            found.append(Candidate(record, reason))
        elif not_saved_for_s is not None and now_ms - record.saved_at > not_saved_for_s * 1_000:
            days = (now_ms - record.saved_at) // 86_400_000
            found.append(Candidate(record, f"not saved for {days} days"))
    return found


def _why_unusable(record: TokenRecord, now_ms: int) -> str:
    if record.refused_at:
        return "Zoho refuses its refresh token"
    is_renewable = record.refresh_token or record.grant_token or record.kind == "client credentials"
    expires_at_ms = record.expires_at_ms
    if not is_renewable and (not record.access_token or (expires_at_ms is not None and expires_at_ms < now_ms)):
        return "expired, and it has no refresh token"
    return ""
