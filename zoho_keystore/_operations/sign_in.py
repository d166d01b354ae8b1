"""Sign in at Zoho and keep the token: the flows of ``login``, usable without the command line."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_keystore._access import accounts_url_of
from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.private_file import FileTooLargeError, read_private_file
from zoho_keystore._oauth import browser, device, endpoints
from zoho_keystore._oauth.data_centres import DataCentre, by_accounts_url, by_api_url, data_centre
from zoho_keystore._oauth.endpoints import Client, TokenReply
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import ConfigurationError, KeystoreError, SignInError, os_error_text

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._oauth.browser import Callback

#: What a program that works with CRM records needs, and what naming the user as the SDK does needs.
DEFAULT_SCOPE = "ZohoCRM.modules.ALL,ZohoCRM.settings.ALL,ZohoCRM.users.READ,ZohoCRM.org.READ"

_MAX_SELF_CLIENT_BYTES = 64 * 1024


@dataclass(frozen=True)
class SignIn:
    """Who signs in where.

    Attributes:
        client: The OAuth client.
        centre: The data centre.
        scope: The scopes, comma-separated.
        redirect_uri: The redirect URI that is registered with the client; None for clients without one.
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


def by_browser(
    keystore: Keystore,
    sign_in: SignIn,
    *,
    timeout_s: float,
    show: Callable[[str], None],
    paste: Callable[[Callable[[str], bool]], None],
) -> SignedIn:
    """Sign in with a browser, and keep the token.

    Args:
        keystore: Where to keep it.
        sign_in: Who signs in where.
        timeout_s: For how many seconds to wait for the user.
        show: Shows the user the address to open.
        paste: Starts to read pasted callback addresses: see :func:`zoho_keystore._oauth.browser.sign_in`.

    Raises:
        SignInError: It failed; nothing was kept.
        KeystoreError: As :func:`zoho_keystore._oauth.endpoints.exchange_code`, or the token could not be saved.
    """
    redirect_uri = sign_in.redirect_uri or browser.DEFAULT_REDIRECT_URI
    browser.require_redirect_uri(redirect_uri)
    request = browser.AuthorizationRequest.make(sign_in.centre, sign_in.client.id, sign_in.scope, redirect_uri)
    kept: list[SignedIn] = []

    def exchange(callback: Callback) -> None:
        centre = browser.accounts_url_of(callback, sign_in.centre)
        issued = endpoints.exchange_code(
            centre.accounts_url,
            sign_in.client,
            callback.code,
            redirect_uri=redirect_uri,
            verifier=request.verifier,
        )
        kept.append(keep(keystore, replace(sign_in, centre=centre, redirect_uri=redirect_uri), issued, "browser"))

    browser.sign_in(request, exchange, timeout_s=timeout_s, show=show, paste=paste)
    return kept[0]


def by_device(
    keystore: Keystore, sign_in: SignIn, *, timeout_s: float, show: Callable[[device.DeviceCode], None]
) -> SignedIn:
    """Sign in with a code that the user enters elsewhere, and keep the token.

    Raises:
        KeystoreError: As :func:`by_browser`.
    """
    code = device.request_code(sign_in.centre, sign_in.client, sign_in.scope)
    show(code)
    centre, issued = device.poll(sign_in.centre, sign_in.client, code, timeout_s=timeout_s)
    return keep(keystore, replace(sign_in, centre=centre, redirect_uri=None), issued, "device")


def by_code(keystore: Keystore, sign_in: SignIn, code: str, kind: str = "grant") -> SignedIn:
    """Exchange a code from Zoho's API console, which works once and for some minutes, and keep the token.

    Raises:
        KeystoreError: As :func:`by_browser`.
    """
    issued = endpoints.exchange_code(
        sign_in.centre.accounts_url, sign_in.client, code, redirect_uri=sign_in.redirect_uri
    )
    return keep(keystore, sign_in, issued, kind)


def by_client_credentials(keystore: Keystore, sign_in: SignIn, *, soid: str) -> SignedIn:
    """Ask for an access token without a user, and keep it; it is renewed in the same way.

    Raises:
        KeystoreError: As :func:`by_browser`.
    """
    issued = endpoints.client_credentials(sign_in.centre.accounts_url, sign_in.client, scope=sign_in.scope, soid=soid)
    return keep(keystore, sign_in, issued, "client credentials", soid=soid)


def keep(keystore: Keystore, sign_in: SignIn, issued: TokenReply, kind: str, *, soid: str | None = None) -> SignedIn:
    """Save what Zoho issued, durably and at once; then name the user as the SDK does, and save that.

    Raises:
        KeystoreError: It could not be saved, so what was issued is lost.
    """
    warnings = []
    api_url = issued.api_domain or sign_in.centre.api_url or None
    record = TokenRecord(
        id=sign_in.id or "",
        client_id=sign_in.client.id,
        client_secret=sign_in.client.secret,
        refresh_token=issued.refresh_token,
        access_token=issued.access_token,
        expires_in=str(issued.expires_at_ms),
        redirect_url=sign_in.redirect_uri,
        api_domain=api_url,
        scope=issued.scope or sign_in.scope,
        accounts_url=sign_in.centre.accounts_url,
        kind=kind,
        soid=soid,
        signed_in_at=time.time_ns() // 1_000_000,
    )
    stored = keystore.save(record)
    missing = set(sign_in.scope.split(",")) - set((issued.scope or sign_in.scope).split(","))
    if missing:
        warnings.append(f"Zoho did not grant: {', '.join(sorted(missing))}")
    if not soid:
        stored, warning = _named(keystore, stored, api_url)
        warnings += [warning] if warning else []
    return SignedIn(stored, warnings)


def _named(keystore: Keystore, record: TokenRecord, api_url: str | None) -> tuple[TokenRecord, str]:
    advice = "the token is kept without the user's name, as the scopes ZohoCRM.users.READ and ZohoCRM.org.READ may lack"
    if not api_url:
        return record, f"Zoho named no API server; {advice}"
    try:
        name = endpoints.user_name(api_url, record.access_token or "")
    except KeystoreError as error:
        return record, f"{error.problem}; the token is kept without the user's name"
    if name is None:
        return record, f"Zoho did not tell the user's name; {advice}"
    named = keystore.name_user(record.id, name)
    return (record, "the token was deleted meanwhile") if named is None else (named, "")


def again(record: TokenRecord, client_secret: str | None = None) -> SignIn:
    """Return how to sign in a stored record again: with its client, scope and data centre.

    Raises:
        ConfigurationError: It has no client.
    """
    secret = client_secret or record.client_secret
    if not record.client_id or not secret:
        raise ConfigurationError(
            f"the token {record.id!r} has no client id and secret", "Give --client-id and --client-secret"
        )
    url = accounts_url_of(record)
    centre = by_accounts_url(url) or by_api_url(record.api_domain or "") or data_centre(url)
    return SignIn(
        Client(record.client_id, secret),
        centre,
        record.scope or DEFAULT_SCOPE,
        record.redirect_url,
        record.id,
    )


class SelfClient(NamedTuple):
    """What ``self_client.json`` of Zoho's API console holds.

    Attributes:
        client: The client.
        code: The code to exchange.
        scope: The scopes, comma-separated.
    """

    client: Client
    code: str
    scope: str

    def __repr__(self) -> str:
        """Leave out secret and code."""
        return f"SelfClient({self.client!r})"


def read_self_client(path: str | os.PathLike[str]) -> SelfClient:
    """Read ``self_client.json``.

    Raises:
        SignInError: It cannot be read, or is not such a file.
    """
    file = real_path(path)
    try:
        content = read_private_file(file, max_bytes=_MAX_SELF_CLIENT_BYTES, check=None).content
        fields: Any = json.loads(content)
    except OSError as error:
        problem = f"the file cannot be read: {os_error_text(error)}"
    except (FileTooLargeError, ValueError, RecursionError):
        problem = "this is not the JSON file of Zoho's API console"
    else:
        match fields:
            case {"client_id": str(client_id), "client_secret": str(client_secret), "code": str(code)}:
                scope = fields.get("scope")
                text = " ".join(scope) if isinstance(scope, list) else str(scope or DEFAULT_SCOPE)
                return SelfClient(Client(client_id, client_secret), code, normalized_scope(text))
        problem = "the file lacks client_id, client_secret or code"
        del fields
    raise SignInError(problem, "Download it again: a code works once, and for some minutes", file)
