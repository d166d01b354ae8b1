"""Zoho's OAuth endpoints: what is sent, and what the replies mean.

Errors are told by the body, not by the status: Zoho sends them with 200, 400 and 401.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from zoho_keystore._oauth.http import Reply, get_json, post_form
from zoho_keystore.errors import (
    ClientRefusedError,
    KeystoreError,
    SignInError,
    SignInNeededError,
    ThrottledError,
    ZohoUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: For how long a throttled refresh token is left alone at first, in milliseconds; each further time doubles it.
FIRST_DENIAL_MS = 60_000
LONGEST_DENIAL_MS = 600_000

#: How long access tokens live whose reply does not tell it, in seconds.
_ACCESS_TOKEN_LIFE_S = 3_600
_MAX_DIGITS = 9

#: What the name of an error looks like; nothing else of a reply is ever shown.
_ERROR_NAME = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True)
class Client:
    """An OAuth client of Zoho's API console.

    Attributes:
        id: The client id.
        secret: The client secret; empty for a client without one.
    """

    id: str
    secret: str = field(default="", repr=False)

    def as_form(self) -> dict[str, str]:
        """Return the fields by which the token endpoint knows the client."""
        return {"client_id": self.id, **({"client_secret": self.secret} if self.secret else {})}


@dataclass(frozen=True, kw_only=True)
class TokenReply:
    """What the token endpoint issues.

    Attributes:
        access_token: Secret.
        refresh_token: Secret; None for a refresh and for client credentials.
        expires_at_ms: When the access token expires, in milliseconds since the epoch.
        api_domain: The API server that it is for; None where the reply does not tell.
        scope: The granted scopes, comma-separated; None where the reply does not tell.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    expires_at_ms: int
    api_domain: str | None = None
    scope: str | None = None


def exchange_code(
    accounts_url: str, client: Client, code: str, *, redirect_uri: str | None = None, verifier: str | None = None
) -> TokenReply:
    """Exchange an authorization code, which works once and for a minute or so; there is no retry.

    Args:
        accounts_url: The accounts server that has issued it.
        client: The client that it was issued to.
        code: The code.
        redirect_uri: The redirect URI that it came to; None for a code of the API console.
        verifier: The PKCE verifier, if a challenge was sent.

    Raises:
        SignInError: Zoho refuses it, or sends no refresh token.
        KeystoreError: As :func:`refresh`.
    """
    form = {"grant_type": "authorization_code", **client.as_form(), "code": code}
    form |= {"redirect_uri": redirect_uri} if redirect_uri else {}
    form |= {"code_verifier": verifier} if verifier else {}
    result = _issued(accounts_url, form, once=True)
    del code, verifier, form  # See zoho_keystore.errors.
    if isinstance(result, SignInNeededError):
        result = SignInError(
            "Zoho does not accept the code: it was used, has expired, or is for another client or data centre",
            "Sign in again; a code works once, and for a short time",
        )
    return require_refresh_token(result)


def require_refresh_token(result: TokenReply | KeystoreError) -> TokenReply:
    """Return what a sign-in was issued.

    Raises:
        SignInError: There is no refresh token in it.
        KeystoreError: It is this error.
    """
    if isinstance(result, KeystoreError):
        raise result
    if not result.refresh_token:
        raise SignInError(
            "Zoho sent no refresh token; nothing was kept", "Sign in again, and grant offline access on Zoho's page"
        )
    return result


def refresh(accounts_url: str, client: Client, refresh_token: str) -> TokenReply:
    """Exchange a refresh token for an access token.

    Raises:
        SignInNeededError: Zoho does not accept the refresh token any more.
        ClientRefusedError: Zoho does not accept the client.
        ThrottledError: Too many access tokens were asked for.
        ZohoUnreachableError: No reply, or a broken one.
        ConfigurationError: The library for HTTP is not installed.
    """
    form = {"grant_type": "refresh_token", **client.as_form(), "refresh_token": refresh_token}
    result = _issued(accounts_url, form)
    del refresh_token, form  # See zoho_keystore.errors.
    if isinstance(result, KeystoreError):
        raise result
    return result


def client_credentials(accounts_url: str, client: Client, *, scope: str, soid: str) -> TokenReply:
    """Ask for an access token without a user, for a self client; there is no refresh token.

    Args:
        accounts_url: The accounts server.
        client: The self client.
        scope: The scopes, comma-separated.
        soid: The service and organization: ``ZohoCRM.<zgid>``.

    Raises:
        KeystoreError: As :func:`refresh`.
    """
    result = _issued(
        accounts_url, {"grant_type": "client_credentials", **client.as_form(), "scope": scope, "soid": soid}
    )
    if isinstance(result, KeystoreError):
        raise result
    return result


def revoke(accounts_url: str, refresh_token: str) -> bool:
    """Revoke a refresh token with its access tokens; return False if Zoho does not know it (any more).

    Raises:
        ThrottledError: Zoho refuses to be asked for a while.
        ZohoUnreachableError: Whether it was revoked is unknown.
        ConfigurationError: The library for HTTP is not installed.
    """
    reply = post_form(f"{accounts_url}/oauth/v2/token/revoke", {"token": refresh_token})
    del refresh_token  # See zoho_keystore.errors.
    if isinstance(reply, Reply):
        if reply.payload.get("status") == "success":
            return True
        error = error_of(reply)
        # An unknown token is answered by 400, whatever the body says.
        is_unknown = isinstance(error, SignInNeededError) or reply.status == HTTPStatus.BAD_REQUEST
        if is_unknown and not isinstance(error, ThrottledError):
            return False
        raise error
    raise reply


def user_name(api_url: str, access_token: str) -> str | None:
    """Return the name that the SDK gives to the user of an access token, ``email:zgid``; None if Zoho does not tell.

    It needs the scopes ``ZohoCRM.users.READ`` and ``ZohoCRM.org.READ``.

    Raises:
        ZohoUnreachableError: No reply, or a broken one.
        ConfigurationError: The library for HTTP is not installed.
    """
    users = get_json(f"{api_url}/crm/v8/users?type=CurrentUser", access_token)
    # Without the user, the organization is not asked for.
    orgs = get_json(f"{api_url}/crm/v8/org", access_token) if "users" in _payload(users) else users
    del access_token  # See zoho_keystore.errors.
    match _payload(users).get("users"), _payload(orgs).get("org"):
        case [{"email": str(email)}, *_], [{"zgid": str() | int() as zgid}, *_]:
            return f"{email}:{zgid}"
    if isinstance(orgs, KeystoreError):
        raise orgs
    return None


def _payload(reply: Reply | KeystoreError) -> Mapping[str, Any]:
    return reply.payload if isinstance(reply, Reply) else {}


def _issued(accounts_url: str, form: Mapping[str, str], *, once: bool = False) -> TokenReply | KeystoreError:
    reply = post_form(f"{accounts_url}/oauth/v2/token", form, once=once)
    return (token_reply(reply) or error_of(reply)) if isinstance(reply, Reply) else reply


def token_reply(reply: Reply) -> TokenReply | None:
    """Return the tokens of a reply; None when it is an error or has no access token."""
    payload = reply.payload
    access_token = payload.get("access_token")
    if payload.get("error") or not isinstance(access_token, str) or not access_token:
        return None
    refresh_token, api_domain, scope = (payload.get(name) for name in ("refresh_token", "api_domain", "scope"))
    return TokenReply(
        access_token=access_token,
        refresh_token=refresh_token if isinstance(refresh_token, str) and refresh_token else None,
        expires_at_ms=time.time_ns() // 1_000_000 + _life_s(payload) * 1_000,
        api_domain=api_domain.rstrip("/") if isinstance(api_domain, str) and api_domain else None,
        scope=",".join(scope.replace(",", " ").split()) if isinstance(scope, str) and scope else None,
    )


def _life_s(payload: Mapping[str, Any]) -> int:
    # With expires_in_sec, expires_in is in milliseconds; without, in seconds.
    text = str(payload.get("expires_in_sec", payload.get("expires_in")))
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else _ACCESS_TOKEN_LIFE_S


_ERRORS: Mapping[str, tuple[type[SignInError], str, str]] = {
    "invalid_code": (
        SignInNeededError,
        "Zoho does not accept the refresh token any more",
        "Sign in again: zoho-keystore login",
    ),
    "invalid_client": (
        ClientRefusedError,
        "Zoho does not know the client there",
        "Check the client id, its type, and the data centre, which has to be enabled for it",
    ),
    "invalid_client_secret": (
        ClientRefusedError,
        "Zoho does not accept the client secret",
        "Check it; each data centre may have its own",
    ),
    "invalid_redirect_uri": (
        ClientRefusedError,
        "Zoho does not accept the redirect URI",
        "It has to equal the one that is registered with the client",
    ),
    "invalid_scope": (
        SignInError,
        "Zoho does not know one of the scopes",
        "Check their spelling: ZohoCRM.modules.ALL, for example",
    ),
    "missing_org_info": (SignInError, "Zoho asks for the organization", "Give --soid ZohoCRM.<zgid>"),
    "access_denied": (SignInError, "Zoho refuses the sign-in: too many were made", "Wait some minutes, and try again"),
}


def error_of(reply: Reply) -> KeystoreError:
    """Return the error that a reply of the token endpoint stands for."""
    error, description = (str(reply.payload.get(name) or "") for name in ("error", "error_description"))
    if error == "Access Denied" or "too many requests" in description.lower():
        return ThrottledError(
            "Zoho refuses further access tokens for a while: at most 10 in 10 minutes are issued",
            "Wait, and keep the tokens that you have: signing in again does not help",
        )
    if error in _ERRORS:
        kind, problem, advice = _ERRORS[error]
        return kind(problem, advice)
    named = f"{error}, " if _ERROR_NAME.fullmatch(error) else ""
    return ZohoUnreachableError(
        f"Zoho's reply is not understood ({named}HTTP {reply.status})", "Try again later, and check the data centre"
    )
