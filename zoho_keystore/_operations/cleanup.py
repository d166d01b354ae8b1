"""Which tokens are not needed any more. Pure: a policy over records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoho_keystore._access import is_refreshable, is_usable

if TYPE_CHECKING:
    from zoho_keystore._records import TokenRecord


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Which records are to be deleted.

    Attributes:
        now_ms: The time, in milliseconds since the epoch.
        unusable: Those whose access token is no longer valid and cannot be refreshed: Zoho has refused it,
            or there is none.
        not_saved_for_s: Those that were not saved for so many seconds, and so not refreshed; None keeps them.
    """

    now_ms: int
    unusable: bool
    not_saved_for_s: float | None

    def reason(self, record: TokenRecord) -> str:
        """Return why a record is to be deleted; empty if it is to be kept."""
        if self.unusable and not is_usable(record, self.now_ms):
            if record.refused_at:
                return "Zoho refuses its refresh token"
            # A grant token alone is one that the SDK has not exchanged yet.
            if not is_refreshable(record) and record.access_token:
                return "expired, and it has no refresh token"
        age_ms = self.now_ms - record.saved_at
        # Without a time of saving, the age is not known.
        if self.not_saved_for_s is not None and record.saved_at and age_ms > self.not_saved_for_s * 1_000:
            return f"not saved for {age_ms // 86_400_000} days"
        return ""
