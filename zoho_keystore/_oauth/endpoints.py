"""Zoho's OAuth endpoints: what is sent, and what the replies mean.

Errors are told by the body, not by the status: Zoho sends them with 200, 400 and 401.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

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

_MAX_DIGITS = 9

#: Replies with ``expires_in`` and without ``expires_in_sec`` give seconds.
_ACCESS_TOKEN_LIFE_S = 3_600


class Client(NamedTuple):
    """An OAuth client of Zoho's API console.

    Attributes:
        id: The client id.
        secret: The client secret; empty for a client without one.
    """

    id: str
    secret: str

    def __repr__(self) -> str:
        """Leave out the secret."""
        return f"Client(id={self.id!r})"


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
    accounts_url: str, client: Client, code: str, *, redirect_uri: str | None, verifier: str | None = None
) -> TokenReply:
    """Exchange an authorization code, which works once and for a minute or so.

    Raises:
        SignInError: Zoho refuses it, or sends no refresh token.
        KeystoreError: As :func:`refresh`.
    """
    form = {"grant_type": "authorization_code", "client_id": client.id, "client_secret": client.secret, "code": code}
    if redirect_uri:
        form["redirect_uri"] = redirect_uri
    if verifier:
        form["code_verifier"] = verifier
    reply = _ask(accounts_url, form, retry=False)
    if not reply.refresh_token:
        raise SignInError(
            "Zoho sent no refresh token; nothing was kept",
            "Sign in again, and grant offline access on Zoho's page",
        )
    return reply


def refresh(accounts_url: str, client: Client, refresh_token: str) -> TokenReply:
    """Exchange a refresh token for an access token.

    Raises:
        SignInNeededError: Zoho does not accept the refresh token any more.
        ClientRefusedError: Zoho does not accept the client.
        ThrottledError: Too many access tokens were asked for.
        ZohoUnreachableError: No reply, or a broken one.
    """
    form = {
        "grant_type": "refresh_token",
        "client_id": client.id,
        "client_secret": client.secret,
        "refresh_token": refresh_token,
    }
    return _ask(accounts_url, form)


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
    form = {
        "grant_type": "client_credentials",
        "client_id": client.id,
        "client_secret": client.secret,
        "scope": scope,
        "soid": soid,
    }
    return _ask(accounts_url, form)


def revoke(accounts_url: str, refresh_token: str) -> bool:
    """Revoke a refresh token with its access tokens; return False if Zoho does not know it (any more).

    Raises:
        ThrottledError: Too many requests.
        ZohoUnreachableError: Whether it was revoked is unknown.
    """
    reply = post_form(f"{accounts_url}/oauth/v2/token/revoke", {"token": refresh_token})
    if reply.payload.get("status") == "success":
        return True
    error = error_of(reply)
    # Zoho answers an unknown token with 400. A throttle may come with 400 too, and then the token lives.
    if (
        isinstance(error, ThrottledError)
        or not HTTPStatus.BAD_REQUEST <= reply.status < HTTPStatus.INTERNAL_SERVER_ERROR
    ):
        raise error
    return False


def user_name(api_url: str, access_token: str) -> str | None:
    """Return the name that the SDK gives to the user of an access token, ``email:zgid``; None if Zoho does not tell.

    It needs the scopes ``ZohoCRM.users.READ`` and ``ZohoCRM.org.READ``.

    Raises:
        ZohoUnreachableError: No reply, or a broken one.
    """
    users = get_json(f"{api_url}/crm/v8/users?type=CurrentUser", access_token).payload.get("users")
    orgs = get_json(f"{api_url}/crm/v8/org", access_token).payload.get("org")
    match (users, orgs):
        case ([{"email": str(email)}, *_], [{"zgid": str() | int() as zgid}, *_]):
            return f"{email}:{zgid}"
    return None


def _ask(accounts_url: str, form: Mapping[str, str], *, retry: bool = True) -> TokenReply:
    reply = post_form(f"{accounts_url}/oauth/v2/token", form, retry=retry)
    issued = token_reply(reply)
    if issued is None:
        raise error_of(reply)
    return issued


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
        expires_at_ms=time.time_ns() // 1_000_000 + _life_ms(payload),
        api_domain=api_domain if isinstance(api_domain, str) and api_domain else None,
        scope=",".join(scope.replace(",", " ").split()) if isinstance(scope, str) and scope else None,
    )


def _life_ms(payload: Mapping[str, Any]) -> int:
    life = payload.get("expires_in_sec", payload.get("expires_in"))
    return _whole(life, _ACCESS_TOKEN_LIFE_S) * 1000


def _whole(value: object, default: int) -> int:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and 0 < len(text) <= _MAX_DIGITS else default


_ERRORS: Mapping[str, tuple[type[SignInError], str, str]] = {
    "invalid_code": (
        SignInNeededError,
        "Zoho does not accept the code or refresh token: it was used, has expired or was revoked",
        "Sign in again",
    ),
    "invalid_client": (
        ClientRefusedError,
        "Zoho does not know the client there",
        "Check the client id, its type and the data centre, for which it has to be enabled",
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
        "Zoho does not know the scope",
        "Check its spelling: ZohoCRM.modules.ALL, for example",
    ),
    "missing_org_info": (SignInError, "Zoho asks for the organization", "Give --soid ZohoCRM.<zgid>"),
    "access_denied": (
        SignInError,
        "Zoho or the user has refused the sign-in",
        "Sign in again, and accept on Zoho's page",
    ),
}


def error_of(reply: Reply) -> KeystoreError:
    """Return the error that a reply of the token endpoint stands for. No text of the reply is repeated."""
    error, description = (str(reply.payload.get(name) or "") for name in ("error", "error_description"))
    if error == "Access Denied" or "too many requests" in description.lower():
        return ThrottledError(
            "Zoho refuses further access tokens for a while: at most 10 in 10 minutes are issued",
            "Wait, and keep the tokens that you have: signing in again does not help",
        )
    if error in _ERRORS:
        kind, problem, advice = _ERRORS[error]
        return kind(problem, advice)
    return ZohoUnreachableError(
        f"Zoho's reply is not understood (HTTP {reply.status})", "Try again later, and check the data centre"
    )
