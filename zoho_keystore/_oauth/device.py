"""Sign-in by device flow (RFC 8628): the user enters a code elsewhere, and this machine asks until it is granted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoho_keystore._oauth.data_centres import DATA_CENTRES, DataCentre
from zoho_keystore._oauth.endpoints import Client, TokenReply, error_of, require_refresh_token, token_reply
from zoho_keystore._oauth.http import Reply, post_form
from zoho_keystore.errors import SignInError, SignInNeededError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoho_keystore.errors import KeystoreError

#: Zoho answers slow_down to those who ask more often than that, in seconds.
_SLOW_INTERVAL_S = 30.0
_DEFAULT_INTERVAL_S = 5.0
_DEFAULT_LIFE_S = 300.0
_LONGEST_S = 86_400.0


@dataclass(frozen=True)
class DeviceCode:
    """What the user enters where.

    Attributes:
        user_code: What the user enters.
        device_code: What this machine asks with. Secret.
        url: Where the user enters it.
        interval_s: How long to wait between two questions, in seconds.
        life_s: For how long the code can be entered, in seconds.
    """

    user_code: str = field(repr=False)
    device_code: str = field(repr=False)
    url: str = field(repr=False)
    interval_s: float
    life_s: float


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
    if not isinstance(reply, Reply):
        raise reply
    payload = reply.payload
    match payload:
        case {"user_code": str(user_code), "device_code": str(device_code), "verification_url": str(url)}:
            complete = payload.get("verification_uri_complete")
            return DeviceCode(
                user_code,
                device_code,
                complete if isinstance(complete, str) and complete else url,
                _seconds(payload, "interval", _DEFAULT_INTERVAL_S, milliseconds_from=1_000),
                _seconds(payload, "expires_in", _DEFAULT_LIFE_S, milliseconds_from=3_601),
            )
    error = error_of(reply)
    del reply, payload  # See zoho_keystore.errors.
    raise error


def _seconds(payload: Mapping[str, Any], name: str, default: float, *, milliseconds_from: int) -> float:
    """Return a length of time, which Zoho gives in seconds or in milliseconds."""
    value = payload.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_S * 1_000:
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

    Args:
        centre: Where to ask first: Zoho may name another data centre.
        client: The client.
        code: The code.
        timeout_s: For how many seconds to ask at most.
        sleep: Waits.
        monotonic_s: The clock.

    Raises:
        SignInError: The user refused, the code expired, or no refresh token came.
        KeystoreError: As :func:`zoho_keystore._oauth.endpoints.refresh`.
    """
    deadline_s = monotonic_s() + min(timeout_s, code.life_s)
    interval_s = code.interval_s
    late: KeystoreError = SignInError("the code was not entered in time; nothing was kept", "Sign in again")
    while (left_s := deadline_s - monotonic_s()) > 0:
        sleep(min(interval_s, left_s))
        reply = _asked(centre, client, code)
        if not isinstance(reply, Reply):
            late = reply  # The code stays good meanwhile; if the network does not come back, that was it.
            continue
        match reply.payload.get("error"):
            case "authorization_pending":
                pass
            case "slow_down":
                interval_s = max(interval_s + _DEFAULT_INTERVAL_S, _SLOW_INTERVAL_S)
            case "other_dc":
                centre = _other_centre(reply.payload, centre)
            case "expired":
                break
            case _:
                result = token_reply(reply) or _refusal(reply)
                del reply  # See zoho_keystore.errors.
                return centre, require_refresh_token(result)
    raise late


def _asked(centre: DataCentre, client: Client, code: DeviceCode) -> Reply | KeystoreError:
    form = {**client.as_form(), "grant_type": "device_token", "code": code.device_code}
    # A granted code works once: a retry would find it used.
    return post_form(f"{centre.accounts_url}/oauth/v3/device/token", form, once=True)


def _refusal(reply: Reply) -> KeystoreError:
    if reply.payload.get("error") == "access_denied":
        return SignInError("the sign-in was refused on Zoho's page; nothing was kept", "Sign in again")
    error = error_of(reply)
    if isinstance(error, SignInNeededError):
        return SignInError("Zoho does not accept the device's code (any more); nothing was kept", "Sign in again")
    return error


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
