"""Sign-in by device flow (RFC 8628): the user enters a code elsewhere, and this machine asks until it is granted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_keystore._oauth.data_centres import DATA_CENTRES, DataCentre
from zoho_keystore._oauth.endpoints import Client, TokenReply, error_of, token_reply
from zoho_keystore._oauth.http import post_form
from zoho_keystore.errors import SignInError, ZohoUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Zoho answers slow_down to those who ask more often than that, in seconds.
_SLOW_INTERVAL_S = 30.0
_DEFAULT_INTERVAL_S = 5.0
_DEFAULT_LIFE_S = 300.0


class DeviceCode(NamedTuple):
    """What the user enters where.

    Attributes:
        user_code: What the user enters.
        device_code: What this machine asks with. Secret.
        url: Where the user enters it.
        interval_s: How long to wait between two questions, in seconds.
        life_s: For how long the code can be entered, in seconds.
    """

    user_code: str
    device_code: str
    url: str
    interval_s: float
    life_s: float

    def __repr__(self) -> str:
        """Leave out the codes."""
        return f"<DeviceCode for {self.url}>"


def request_code(centre: DataCentre, client: Client, scope: str) -> DeviceCode:
    """Ask for a code.

    Raises:
        KeystoreError: As :func:`zoho_keystore._oauth.endpoints.refresh`.
    """
    form = {
        "client_id": client.id,
        "grant_type": "device_request",
        "scope": scope,
        "access_type": "offline",
        "prompt": "consent",
    }
    reply = post_form(f"{centre.accounts_url}/oauth/v3/device/code", form)
    payload = reply.payload
    match payload:
        case {"user_code": str(user_code), "device_code": str(device_code), "verification_url": str(url)}:
            complete = payload.get("verification_uri_complete")
            interval_s = _seconds(payload, "interval", _DEFAULT_INTERVAL_S, milliseconds_from=1_000)
            life_s = _seconds(payload, "expires_in", _DEFAULT_LIFE_S, milliseconds_from=3_601)
            where = complete if isinstance(complete, str) and complete else url
            return DeviceCode(user_code, device_code, where, interval_s, life_s)
    raise error_of(reply)


def _seconds(payload: Mapping[str, Any], name: str, default: float, *, milliseconds_from: int) -> float:
    """Return a length of time, which Zoho gives in seconds or in milliseconds."""
    value = payload.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return default
    return value / 1_000 if value >= milliseconds_from else float(value)


def poll(
    centre: DataCentre,
    client: Client,
    code: DeviceCode,
    *,
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    monotonic_s: Callable[[], float] = time.monotonic,
) -> tuple[DataCentre, TokenReply]:
    """Ask until the user has entered the code; return where it was granted, and the tokens.

    Raises:
        SignInError: The user refused, the code expired, or no refresh token came.
        KeystoreError: As :func:`zoho_keystore._oauth.endpoints.refresh`.
    """
    form = {
        "client_id": client.id,
        "client_secret": client.secret,
        "grant_type": "device_token",
        "code": code.device_code,
    }
    deadline_s = monotonic_s() + min(timeout_s, code.life_s)
    interval_s = code.interval_s
    while (left_s := deadline_s - monotonic_s()) > 0:
        sleep(min(interval_s, left_s))
        try:
            reply = post_form(f"{centre.accounts_url}/oauth/v3/device/token", form)
        except ZohoUnreachableError:
            interval_s = min(interval_s * 2, _SLOW_INTERVAL_S)  # The code stays good meanwhile.
            continue
        issued = token_reply(reply)
        if issued is not None:
            if not issued.refresh_token:
                raise SignInError("Zoho sent no refresh token; nothing was kept", "Sign in again")
            return centre, issued
        match reply.payload.get("error"):
            case "authorization_pending":
                pass
            case "slow_down":
                interval_s = max(interval_s * 2, _SLOW_INTERVAL_S)
            case "other_dc":
                centre = _other_centre(reply.payload, centre)
                interval_s = min(interval_s, code.interval_s)
            case "expired":
                break
            case _:
                raise error_of(reply)
    raise SignInError("the code has expired before it was entered; nothing was kept", "Sign in again")


def _other_centre(payload: Mapping[str, Any], centre: DataCentre) -> DataCentre:
    location = payload.get("user_location") or payload.get("dc")
    other = DATA_CENTRES.get(location.lower()) if isinstance(location, str) else None
    # A server that the user named by its address stays the only one.
    if other is None or not centre.location:
        raise SignInError(
            "the user belongs to another data centre, which is not known here",
            "Sign in with --dc and the user's data centre",
        )
    return other
