"""The switches of the fake Zoho."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_USER = "ada@example.com"


@dataclass(frozen=True, kw_only=True)
class Callback:
    """Changes to the address that the browser is sent to after consent.

    Zoho's own order is `state`, `code`, `location`, `accounts-server`; after a refusal `state`, `error`.

    Attributes:
        without: The parameters that are left out.
        replace: Other values for parameters: forged ones, for example.
        add: Parameters that are appended: doubled ones, for example.
        error: Send this error in place of a code.
        trailing_ampersand: End the address with `&`, as Zoho does at times.
    """

    without: tuple[str, ...] = ()
    replace: Mapping[str, str] = field(default_factory=dict)
    add: tuple[tuple[str, str], ...] = ()
    error: str = ""
    trailing_ampersand: bool = False


@dataclass(kw_only=True, eq=False, repr=False)
class Settings:
    """The switches. All may be changed while the server runs.

    Attributes:
        delay_s: Seconds that a request to the token endpoint waits between being counted and being decided.
        token_life_s: Seconds that an access token issued from now on stays valid. The SDK takes a token for expired
            5 s early: with 5 or less it refreshes before every request, with a token that is still valid here.
        code_life_s: Seconds that a code from the consent page stays valid.
        enforce_limit: Deny a refresh token its 11th access token in 10 minutes; the one of the grant is its first.
        error_status: HTTP status of OAuth errors: one for all, or by error name (200 for those not named).
        browser_user: The user who is signed in to Zoho in the browser.
        consent: "ask" shows a page with "Accept" and "Reject"; "accept" and "reject" answer at once. Also for devices.
        granted_scope: The scope that the user consents to, in place of the scope asked for.
        callback: Changes to the redirect after consent.
        check_pkce: Compare the code verifier with the challenge, and ask a mobile client for a challenge.
        expires_in_ms: Give `expires_in` in milliseconds, with `expires_in_sec` beside it.
        scope_in_reply: Name the granted scope in token replies, space-separated.
        alter_tokens: Fields to set in successful token replies; None removes the field.
        device_unit: The unit of `interval` and `expires_in` in the device flow.
        device_interval_s: A device that polls sooner than this is told "slow_down".
        device_life_s: Seconds until a device code expires.
        other_dc_field: The field that names the user's location in the device flow's "other_dc".
        unauthorized_code: The CRM's error code for an access token that is not valid (HTTP 401): "INVALID_TOKEN",
            "INVALID_OAUTHTOKEN" or "AUTHENTICATION_FAILURE". A missing scope is always "OAUTH_SCOPE_MISMATCH".
    """

    delay_s: float = 0.0
    token_life_s: float = 3600
    code_life_s: float = 60
    enforce_limit: bool = False
    error_status: int | Mapping[str, int] = 200
    browser_user: str = DEFAULT_USER
    consent: Literal["ask", "accept", "reject"] = "ask"
    granted_scope: str | None = None
    callback: Callback = field(default_factory=Callback)
    check_pkce: bool = True
    expires_in_ms: bool = False
    scope_in_reply: bool = False
    alter_tokens: Mapping[str, Any] = field(default_factory=dict)
    device_unit: Literal["ms", "s"] = "ms"
    device_interval_s: float = 30
    device_life_s: float = 300
    other_dc_field: Literal["user_location", "dc"] = "user_location"
    unauthorized_code: str = "INVALID_TOKEN"
