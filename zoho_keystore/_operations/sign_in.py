"""Sign in at Zoho and keep the token: the flows of ``login``, usable without the command line."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_keystore._access import accounts_url_of
from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.private_file import FileTooLargeError, read_private_file
from zoho_keystore._oauth import browser, device, endpoints
from zoho_keystore._oauth.data_centres import DataCentre, data_centre, may_be_sent_to
from zoho_keystore._oauth.endpoints import Client, TokenReply
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import (
    ConfigurationError,
    DurabilityUnknownError,
    KeystoreError,
    SignInError,
    os_error_text,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._oauth.browser import Callback, User

#: What a program that works with CRM records needs, and what naming the user as the SDK does needs.
DEFAULT_SCOPE = "ZohoCRM.modules.ALL,ZohoCRM.settings.ALL,ZohoCRM.users.READ,ZohoCRM.org.READ"

CLIENT_CREDENTIALS = "client credentials"

_MAX_SELF_CLIENT_BYTES = 64 * 1024

#: Said before a code is spent: if this is the last that is said, the process was killed before the token was kept.
_EXCHANGING = "Exchanging the code. Should this be interrupted, what Zoho issues is lost: sign in again then."


@dataclass(frozen=True)
class SignIn:
    """Who signs in where.

    Attributes:
        client: The OAuth client.
        centre: The data centre.
        scope: The scopes, comma-separated.
        redirect_uri: The redirect URI that is registered with the client; None is the default one, or none.
        id: The record to sign in again; None updates the record of the same user and client, or makes a new one.
    """

    client: Client
    centre: DataCentre
    scope: str = DEFAULT_SCOPE
    redirect_uri: str | None = None
    id: str | None = None


class SignedIn(NamedTuple):
    """What a sign-in kept.

    Attributes:
        record: The record, as it is stored.
        warnings: What did not go as asked: the user could not be named, or less was granted.
    """

    record: TokenRecord
    warnings: Sequence[str]


def normalized_scope(scope: str) -> str:
    """Return scopes with commas between them: Zoho rejects a list with spaces.

    Raises:
        ConfigurationError: There is none.
    """
    scopes = scope.replace(",", " ").split()
    if not scopes:
        raise ConfigurationError("no scope is given", "Give one such as ZohoCRM.modules.ALL")
    return ",".join(dict.fromkeys(scopes))


def by_browser(keystore: Keystore, sign_in: SignIn, *, timeout_s: float, user: User) -> SignedIn:
    """Sign in with a browser, and keep the token.

    Args:
        keystore: Where to keep it.
        sign_in: Who signs in where.
        timeout_s: For how many seconds to wait for the user.
        user: The user.

    Raises:
        SignInError: It failed; nothing was kept.
        KeystoreError: As :func:`zoho_keystore._oauth.endpoints.exchange_code`, or the token could not be saved.
    """
    redirect_uri = sign_in.redirect_uri or browser.DEFAULT_REDIRECT_URI
    browser.require_redirect_uri(redirect_uri)
    request = browser.AuthorizationRequest.make(sign_in.centre, sign_in.client.id, sign_in.scope, redirect_uri)
    kept: list[SignedIn] = []

    def exchange(callback: Callback) -> None:
        centre = browser.exchange_centre(callback, sign_in.centre)
        user.tell(_EXCHANGING)
        issued = endpoints.exchange_code(
            centre.accounts_url,
            sign_in.client,
            callback.code,
            redirect_uri=redirect_uri,
            verifier=request.verifier,
        )
        done = replace(sign_in, centre=centre, redirect_uri=redirect_uri)
        kept.append(_keep(keystore, done, issued, "browser", user))

    browser.sign_in(request, exchange, timeout_s=timeout_s, user=user)
    return kept[0]


def by_device(keystore: Keystore, sign_in: SignIn, *, timeout_s: float, user: User) -> SignedIn:
    """Sign in with a code that the user enters elsewhere, and keep the token.

    Raises:
        KeystoreError: As :func:`by_browser`.
    """
    code = device.request_code(sign_in.centre, sign_in.client, sign_in.scope)
    user.tell(f"Open {code.url} on any machine, and enter the code {code.user_code} there.")
    user.tell("Waiting for it. Should this be interrupted after that, what Zoho issues is lost: sign in again then.")
    centre, issued = device.poll(sign_in.centre, sign_in.client, code, timeout_s=timeout_s)
    return _keep(keystore, replace(sign_in, centre=centre, redirect_uri=None), issued, "device", user)


def by_code(keystore: Keystore, sign_in: SignIn, code: str, *, user: User, kind: str = "grant") -> SignedIn:
    """Exchange a code that Zoho has issued elsewhere, which works once and for some minutes, and keep the token.

    Args:
        keystore: Where to keep it.
        sign_in: Who signs in where; with the redirect URI that the code came to, or none for Zoho's API console.
        code: The code.
        user: The user.
        kind: How the code came.

    Raises:
        KeystoreError: As :func:`by_browser`.
    """
    user.tell(_EXCHANGING)
    try:
        issued = endpoints.exchange_code(
            sign_in.centre.accounts_url, sign_in.client, code, redirect_uri=sign_in.redirect_uri
        )
    finally:
        del code  # See zoho_keystore.errors.
    return _keep(keystore, sign_in, issued, kind, user)


def by_client_credentials(keystore: Keystore, sign_in: SignIn, *, soid: str) -> SignedIn:
    """Ask for an access token without a user, and keep it; it is renewed in the same way.

    The record of the same client and organization is updated.

    Raises:
        ConfigurationError: The record that is to be signed in again is a user's.
        KeystoreError: As :func:`by_browser`.
    """
    if sign_in.id is not None and keystore.require(sign_in.id).refresh_token:
        raise ConfigurationError(
            f"the token {sign_in.id!r} is a user's, and client credentials give one without a user",
            "Sign in without --id, with --client-id and --client-secret",
        )
    issued = endpoints.client_credentials(sign_in.centre.accounts_url, sign_in.client, scope=sign_in.scope, soid=soid)
    same = (CLIENT_CREDENTIALS, sign_in.client.id, soid)
    ids = [one.id for one in keystore.records() if (one.kind, one.client_id, one.soid) == same]
    id = sign_in.id or next(iter(ids), "")
    record = replace(_record(sign_in, issued, CLIENT_CREDENTIALS), id=id, soid=soid)
    return SignedIn(_saved(keystore, record), _missing_scopes(sign_in, issued))


def _keep(keystore: Keystore, sign_in: SignIn, issued: TokenReply, kind: str, user: User) -> SignedIn:
    """Save what Zoho issued, durably and at once, as a record of its own; then find out whose it is.

    Raises:
        SignInError: Another user has signed in than the one whose record was to be signed in again; it is kept.
        KeystoreError: It could not be saved, so what was issued is lost.
    """
    stored = _saved(keystore, _record(sign_in, issued, kind))
    user.tell("The token is kept. Asking Zoho for the user's name.")
    name, warning = _user_name(sign_in.centre, stored)
    warnings = [*_missing_scopes(sign_in, issued), *warning]
    try:
        finished = keystore.finish_sign_in(stored.id, name, again=sign_in.id)
    except DurabilityUnknownError:
        raise
    except KeystoreError as error:
        return SignedIn(stored, [*warnings, f"{error.problem}; the token is kept without the user's name"])
    if finished is None:
        return SignedIn(stored, [*warnings, "another process has deleted the token meanwhile"])
    if sign_in.id not in {None, finished.id}:
        raise SignInError(
            f"another user has signed in, {finished.user_name}: kept as the token {finished.id!r}, and the token "
            f"{sign_in.id!r} is as it was",
            "Sign out at Zoho in the browser, and sign in again as the right user",
            keystore.path,
        )
    return SignedIn(finished, warnings)


def _record(sign_in: SignIn, issued: TokenReply, kind: str) -> TokenRecord:
    return TokenRecord(
        client_id=sign_in.client.id,
        client_secret=sign_in.client.secret,
        refresh_token=issued.refresh_token,
        access_token=issued.access_token,
        expires_in=str(issued.expires_at_ms),
        redirect_url=sign_in.redirect_uri,
        api_domain=issued.api_domain or sign_in.centre.api_url or None,
        scope=issued.scope or sign_in.scope,
        accounts_url=sign_in.centre.accounts_url,
        kind=kind,
        signed_in_at=time.time_ns() // 1_000_000,
    )


def _saved(keystore: Keystore, record: TokenRecord) -> TokenRecord:
    """Save what was issued; an error says that it is lost, unless it is saved all the same."""
    try:
        return keystore.save(record)
    except DurabilityUnknownError:
        raise
    except KeystoreError as error:
        failure = type(error)(
            f"{error.problem}; what Zoho has issued is lost", f"{error.advice}. Then sign in again", error.path
        )
    raise failure


def _missing_scopes(sign_in: SignIn, issued: TokenReply) -> list[str]:
    asked, granted = (scope.lower().split(",") for scope in (sign_in.scope, issued.scope or sign_in.scope))
    missing = [scope for scope in sign_in.scope.split(",") if scope.lower() in set(asked) - set(granted)]
    return [f"Zoho did not grant {', '.join(missing)}"] if missing else []


def _user_name(centre: DataCentre, record: TokenRecord) -> tuple[str | None, list[str]]:
    """Return the name of the user who has signed in, and a warning where it cannot be known."""
    advice = "the token is kept without the user's name"
    api_url = record.api_domain or ""
    if not may_be_sent_to(api_url, centre):
        return None, [f"Zoho named no API server that is known here; {advice}"]
    try:
        name = endpoints.user_name(api_url, record.access_token or "")
    except KeystoreError as error:
        return None, [f"{error.problem}; {advice}"]
    if name is None:
        scopes = "ZohoCRM.users.READ and ZohoCRM.org.READ"
        return None, [f"Zoho did not tell who signed in, which needs the scopes {scopes}; {advice}"]
    return name, []


def again(record: TokenRecord, client_secret: str | None = None) -> SignIn:
    """Return how to sign in a stored record again: with its client, scope and data centre.

    Args:
        record: The record.
        client_secret: A new client secret; None is the stored one.

    Raises:
        ConfigurationError: It has no client.
    """
    if not record.client_id:
        raise ConfigurationError(
            f"the token {record.id!r} has no client id", "Sign in without --id, with --client-id and --client-secret"
        )
    return SignIn(
        Client(record.client_id, client_secret or record.client_secret or ""),
        data_centre(accounts_url_of(record)),
        record.scope or DEFAULT_SCOPE,
        record.redirect_url,
        record.id,
    )


@dataclass(frozen=True)
class SelfClient:
    """What ``self_client.json`` of Zoho's API console holds.

    Attributes:
        client: The client.
        code: The code to exchange.
        scope: The scopes, comma-separated.
    """

    client: Client
    code: str = field(repr=False)
    scope: str


def read_self_client(path: str | os.PathLike[str]) -> SelfClient:
    """Read ``self_client.json``.

    Raises:
        SignInError: It cannot be read, or is not such a file.
    """
    file = real_path(path)
    found = _self_client(file)
    if isinstance(found, SelfClient):
        return found
    raise SignInError(found, "Download it again: a code works once, and for some minutes", file)


def _self_client(file: Path) -> SelfClient | str:
    """Return what a file holds, or what is wrong with it."""
    try:
        content = read_private_file(file, max_bytes=_MAX_SELF_CLIENT_BYTES, check=None).content
        fields: Any = json.loads(content)
    except OSError as error:
        return f"the file cannot be read: {os_error_text(error)}"
    except (FileTooLargeError, ValueError, RecursionError):
        return "this is not the JSON file of Zoho's API console"
    match fields:
        case {"client_id": str(client_id), "client_secret": str(client_secret), "code": str(code)}:
            scope = fields.get("scope")
            text = " ".join(map(str, scope)) if isinstance(scope, list) else str(scope or "")
            return SelfClient(Client(client_id, client_secret), code, normalized_scope(text or DEFAULT_SCOPE))
    return "the file lacks client_id, client_secret or code"
