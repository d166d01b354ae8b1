"""Zoho's rules for clients, codes and tokens, without HTTP: a request and the time go in, a reply comes out.

Not thread-safe: `FakeZoho` calls it under a lock.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlencode

from fake_zoho import _pages as pages
from fake_zoho._crm import ZGID
from fake_zoho._messages import Reply, Request, error_reply, html_page
from fake_zoho._settings import DEFAULT_USER, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_REDIRECT = "http://localhost:18734/callback"
LIMIT, LIMIT_WINDOW_S = 10, 600.0  # Zoho's: access tokens a refresh token, in this time
REFRESH_TOKENS_KEPT = 20  # of a user and client
ACCESS_TOKENS_KEPT = 15  # of a refresh token
_SCOPE = re.compile(
    r"ZohoCRM\.(modules|settings|users|org|bulk|notifications|coql|files|templates|send_mail)(\.\w+)*\.[A-Z]+"
    r"|ZohoSearch\.securesearch\.READ|aaaserver\.profile\.READ"
)
ClientKind = Literal["server-based", "mobile", "non-browser", "self"]
_WITH_REDIRECT = ("server-based", "mobile")
_ALL_KINDS = (*_WITH_REDIRECT, "non-browser", "self")


@dataclass(frozen=True)
class Client:
    """A client that is registered at Zoho.

    Attributes:
        id: The client id, the same in all data centres.
        kind: Server-based, mobile (or desktop), non-browser (device flow), or self client (codes from the console).
        secrets: The client secret in each location in which the client is enabled.
        redirect_uris: The registered redirect URIs; compared as a whole.
        needs_secret: Whether the token endpoint insists on the secret; a wrong one is refused in any case.
    """

    id: str
    kind: ClientKind
    secrets: Mapping[str, str]
    redirect_uris: tuple[str, ...]
    needs_secret: bool = True


class OAuthError(Exception):
    """Raised to answer a request with an OAuth error."""

    def __init__(self, error: str, **more: str) -> None:
        super().__init__(error)
        self.error, self.more = error, more


class PageError(Exception):
    """Raised to show the browser an error page, which redirects nowhere."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(title)
        self.title, self.detail = title, detail


class Access(NamedTuple):
    """An access token's user, location, scope and end."""

    user: str
    location: str
    scope: str
    expires_at: float


class _Code(NamedTuple):
    user: str
    client: str | None  # None: any client may use it
    location: str
    scope: str
    expires_at: float
    redirect_uri: str = ""
    challenge: str = ""
    challenge_method: str = ""
    is_offline: bool = True


class _Consent(NamedTuple):
    client: Client
    location: str
    parameters: dict[str, str]


@dataclass
class _Refresh:
    user: str
    client: str | None
    location: str
    scope: str
    issued_at: list[float] = field(default_factory=list)
    accesses: list[str] = field(default_factory=list)


@dataclass
class _Device:
    client: str | None
    scope: str
    user_code: str
    expires_at: float
    polled_at: float
    is_offline: bool
    user: str | None = None
    is_rejected: bool = False


class Accounts:
    """All accounts servers: they share clients, users and tokens; a token is valid in its user's location only."""

    def __init__(
        self,
        settings: Settings,
        locations: tuple[str, ...],
        accounts_urls: Mapping[str, str],
        api_urls: Mapping[str, str],
    ) -> None:
        self.settings = settings
        self.clients: dict[str, Client] = {}
        self.issued: list[str] = []
        self.revoked: list[str] = []
        self._locations, self._accounts_urls, self._api_urls = locations, accounts_urls, api_urls
        self._homes: dict[str, str] = {}
        self._user_ids: dict[str, str] = {}
        self._codes: dict[str, _Code] = {}
        self._refreshes: dict[str, _Refresh] = {}
        self._accesses: dict[str, Access] = {}
        self._consents: dict[str, _Consent] = {}
        self._consented: set[tuple[str, str]] = set()
        self._devices: dict[str, _Device] = {}

    # What tests set up

    def add_client(self, client: Client) -> None:
        """Register a client."""
        self.clients[client.id] = client

    def set_home(self, user: str, location: str) -> None:
        """Place a user in a data centre."""
        self._homes[user] = location

    def user_id(self, user: str) -> str:
        """Return a user's id in the CRM: the same for the same user."""
        return self._user_ids.setdefault(user, str(5_000_000_000_001 + len(self._user_ids)))

    def add_code(self, user: str, client: Client | None, scope: str, expires_at: float) -> str:
        """Return a code from the console, which is bound to no redirect URI and no challenge."""
        return self._add_code(_Code(user, client.id if client else None, self._home(user), scope, expires_at))

    def add_refresh(self, user: str, client: str | None, scope: str = "") -> str:
        """Return a new refresh token; the oldest one of a registered client's user goes if there are too many."""
        token = new_token()
        self._refreshes[token] = _Refresh(user, client, self._home(user), scope)
        if client is not None:
            same = [key for key, record in self._refreshes.items() if (record.user, record.client) == (user, client)]
            for evicted in same[:-REFRESH_TOKENS_KEPT]:
                self._drop(evicted)
        return token

    def find_access(self, token: str, location: str, now: float) -> Access | None:
        """Return an access token's record if it is valid in this location."""
        access = self._accesses.get(token)
        return access if access and access.location == location and now < access.expires_at else None

    def expire_all(self) -> None:
        """End all access tokens."""
        self._accesses.clear()

    def set_device(self, user_code: str, user: str | None) -> bool:
        """Approve a device code as this user, or reject it where there is none; return whether the code is known."""
        for device in self._devices.values():
            if device.user_code == user_code:
                device.user, device.is_rejected = user, user is None
                return True
        return False

    @property
    def secrets(self) -> set[str]:
        """Everything secret that was handed out."""
        tokens = {*self.issued, *self.revoked, *self._refreshes, *self._codes, *self._devices}
        return tokens.union(*(client.secrets.values() for client in self.clients.values()))

    # The endpoints

    def answer(self, request: Request, now: float) -> Reply:
        """Answer a request to an accounts server."""
        try:
            reply: Reply = getattr(self, f"_{request.kind}")(request, now)
        except PageError as exc:
            return html_page(pages.error(exc.title, exc.detail), 400)
        except OAuthError as exc:
            status = self.settings.error_status
            return error_reply(exc.error, status if isinstance(status, int) else status.get(exc.error, 200), **exc.more)
        return reply

    def _serverinfo(self, _request: Request, _now: float) -> Reply:
        return Reply(content={"result": "success", "locations": dict(self._accounts_urls)})

    def _authorize(self, request: Request, now: float) -> Reply:
        parameters = request.parameters
        client = self.clients.get(parameters.get("client_id", ""))
        if client is None or request.location not in client.secrets or client.kind not in _WITH_REDIRECT:
            raise PageError("Invalid Client", "The client id is not known in this data centre.")
        if parameters.get("response_type") != "code":
            raise PageError("Invalid Response Type", "The response type has to be code.")
        if parameters.get("redirect_uri") not in client.redirect_uris:
            raise PageError("Invalid Redirect Uri", "The redirect URI is not registered with the client.")
        if not is_scope(parameters.get("scope", "")):
            raise PageError("Invalid OAuth Scope", "The scope does not exist.")
        if client.kind == "mobile" and self.settings.check_pkce and not parameters.get("code_challenge"):
            raise PageError("Invalid Request", "The code challenge is missing.")
        consent = _Consent(client, request.location, parameters)
        if self.settings.consent != "ask":
            return self._finish(consent, now, is_accepted=self.settings.consent == "accept")
        ticket = secrets.token_hex(16)
        self._consents[ticket] = consent
        return html_page(pages.consent(client.id, self.settings.browser_user, parameters["scope"], ticket))

    def _consent(self, request: Request, now: float) -> Reply:
        form = request.form
        consent = self._consents.pop(form.get("ticket", ""), None)
        if consent is None:
            raise PageError("Invalid Request", "This page was used before.")
        return self._finish(consent, now, is_accepted=form.get("choice") == "accept")

    def _finish(self, consent: _Consent, now: float, *, is_accepted: bool) -> Reply:
        client, asked, callback = consent.client, consent.parameters, self.settings.callback
        user = self.settings.browser_user
        home = self._home(user)
        if home not in client.secrets:
            raise PageError("Invalid Client", f"The client is not enabled in the user's data centre, {home}.")
        parameters = {"state": asked["state"]} if "state" in asked else {}
        if callback.error or not is_accepted:
            parameters["error"] = callback.error or "access_denied"
        else:
            is_new = (user, client.id) not in self._consented
            self._consented.add((user, client.id))
            code = _Code(
                user,
                client.id,
                home,
                self.settings.granted_scope or asked["scope"],
                now + self.settings.code_life_s,
                asked["redirect_uri"],
                asked.get("code_challenge", ""),
                asked.get("code_challenge_method", "plain"),
                asked.get("access_type") == "offline" and (is_new or asked.get("prompt") == "consent"),
            )
            parameters |= {"code": self._add_code(code), "location": home, "accounts-server": self._accounts_urls[home]}
        pairs = [(k, callback.replace.get(k, v)) for k, v in parameters.items() if k not in callback.without]
        separator = "&" if "?" in asked["redirect_uri"] else "?"
        address = asked["redirect_uri"] + separator + urlencode([*pairs, *callback.add])
        return Reply(status=302, headers=(("Location", address + "&" * callback.trailing_ampersand),))

    def _grant(self, request: Request, now: float) -> Reply:
        form = request.form
        client = self._client(form, request.location, (*_WITH_REDIRECT, "self"))
        # Taken out on the first attempt, also on one that fails: Zoho's codes are for single use.
        code = self._codes.pop(form.get("code", ""), None)
        if code is None or now >= code.expires_at or code.location != request.location:
            raise OAuthError("invalid_code")
        if code.client not in (None, client):
            raise OAuthError("invalid_code")
        if code.redirect_uri and form.get("redirect_uri") != code.redirect_uri:
            raise OAuthError("invalid_redirect_uri")
        if self.settings.check_pkce and code.challenge:
            verifier = form.get("code_verifier", "")
            if code.challenge != (s256(verifier) if code.challenge_method == "S256" else verifier):
                raise OAuthError("invalid_code")
        return self._sign_in(code.user, client, code.scope, now, is_offline=code.is_offline)

    def _refresh(self, request: Request, now: float) -> Reply:
        form = request.form
        client = self._client(form, request.location, _ALL_KINDS)
        token = form.get("refresh_token", "")
        record = self._refreshes.get(token)
        if record is None or record.location != request.location or record.client not in (None, client):
            raise OAuthError("invalid_code")
        return self._tokens(self._issue(record, now), record)

    def _credentials(self, request: Request, now: float) -> Reply:
        form = request.form
        self._client(form, request.location, ("self",))
        if not is_scope(form.get("scope", "")):
            raise OAuthError("invalid_scope")
        if form.get("soid") != f"ZohoCRM.{ZGID}":
            raise OAuthError("missing_org_info")
        record = _Refresh(DEFAULT_USER, None, request.location, form["scope"])
        return self._tokens(self._issue(record, now), record)

    def _revoke(self, request: Request, _now: float) -> Reply:
        token = request.form.get("token", "")
        if token not in self._refreshes:
            return Reply(content={"status": "error", "message": "invalid_code"}, status=400)
        self._drop(token)
        self.revoked.append(token)
        return Reply(content={"status": "success"})

    def _device_code(self, request: Request, now: float) -> Reply:
        form, settings = request.form, self.settings
        client = self._client(form, request.location, ("non-browser",), with_secret=False)
        if form.get("grant_type") != "device_request":
            raise OAuthError("invalid_grant_type")
        if not is_scope(form.get("scope", "")):
            raise OAuthError("invalid_scope")
        code, user_code = new_token(), secrets.token_hex(4).upper()
        expires_at, is_offline = now + settings.device_life_s, form.get("access_type") == "offline"
        scope = settings.granted_scope or form["scope"]
        self._devices[code] = _Device(client, scope, user_code, expires_at, now, is_offline)
        if settings.consent != "ask":
            self.set_device(user_code, settings.browser_user if settings.consent == "accept" else None)
        page = f"{self._accounts_urls[request.location]}/oauth/v3/device"
        factor = 1000 if settings.device_unit == "ms" else 1
        content = {
            "user_code": user_code,
            "device_code": code,
            "verification_url": page,
            "verification_uri_complete": f"{page}?user_code={user_code}",
            "interval": int(settings.device_interval_s * factor),
            "expires_in": int(settings.device_life_s * factor),
        }
        return Reply(content=content)

    def _device_token(self, request: Request, now: float) -> Reply:
        form = request.form
        client = self._client(form, request.location, ("non-browser",))
        code = form.get("code", "")
        device = self._devices.get(code)
        if form.get("grant_type") != "device_token" or device is None or device.client != client:
            raise OAuthError("invalid_code")
        if now >= device.expires_at:
            raise OAuthError("expired")
        waited_s, device.polled_at = now - device.polled_at, now
        if waited_s < self.settings.device_interval_s:
            raise OAuthError("slow_down")
        if device.is_rejected:
            raise OAuthError("access_denied")
        if device.user is None:
            raise OAuthError("authorization_pending")
        home = self._home(device.user)
        if home != request.location:
            device.polled_at = -math.inf  # the next poll, at the right server, may come at once
            raise OAuthError("other_dc", **{self.settings.other_dc_field: home})
        del self._devices[code]
        return self._sign_in(device.user, client, device.scope, now, is_offline=device.is_offline)

    def _device_page(self, request: Request, _now: float) -> Reply:
        if request.method == "GET":
            return html_page(pages.device(self.settings.browser_user, request.parameters.get("user_code", "")))
        form = request.form
        user = self.settings.browser_user if form.get("choice") == "accept" else None
        if not self.set_device(form.get("user_code", "").strip().upper(), user):
            raise PageError("Invalid Code", "No device shows this code.")
        return html_page(pages.done("Device connected" if user else "Device rejected"))

    # Helpers

    def _home(self, user: str) -> str:
        return self._homes.get(user, self._locations[0])

    def _add_code(self, code: _Code) -> str:
        token = new_token()
        self._codes[token] = code
        return token

    def _client(
        self, form: Mapping[str, str], location: str, kinds: tuple[str, ...], *, with_secret: bool = True
    ) -> str | None:
        # The id of the registered client that asks; None where no client is registered.
        client_id, secret = form.get("client_id", ""), form.get("client_secret", "")
        if not self.clients:
            if not client_id or (with_secret and not secret):
                raise OAuthError("invalid_client")
            return None
        client = self.clients.get(client_id)
        if client is None or location not in client.secrets or client.kind not in kinds:
            raise OAuthError("invalid_client")
        if with_secret and (secret or client.needs_secret) and secret != client.secrets[location]:
            raise OAuthError("invalid_client_secret")
        return client.id

    def _sign_in(self, user: str, client: str | None, scope: str, now: float, *, is_offline: bool) -> Reply:
        token = self.add_refresh(user, client, scope) if is_offline else None
        record = self._refreshes[token] if token else _Refresh(user, client, self._home(user), scope)
        return self._tokens(self._issue(record, now), record, token)

    def _issue(self, record: _Refresh, now: float) -> str:
        record.issued_at[:] = [then for then in record.issued_at if now - then < LIMIT_WINDOW_S]
        if self.settings.enforce_limit and len(record.issued_at) >= LIMIT:
            raise OAuthError("Access Denied")
        record.issued_at.append(now)
        token = new_token()
        expires_at = now + self.settings.token_life_s
        self._accesses[token] = Access(record.user, record.location, record.scope, expires_at)
        record.accesses.append(token)
        self.issued.append(token)
        if record.client is not None:
            live = [key for key in record.accesses if self.find_access(key, record.location, now)]
            for evicted in live[:-ACCESS_TOKENS_KEPT]:
                del self._accesses[evicted]
        return token

    def _tokens(self, access_token: str, record: _Refresh, refresh_token: str | None = None) -> Reply:
        life_s = self.settings.token_life_s
        # The loopback URL: with another api_domain the SDK would move to that server at its next request.
        tokens: dict[str, Any] = {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "api_domain": self._api_urls[record.location],
            "token_type": "Bearer",
            "expires_in": int(life_s * 1000) if self.settings.expires_in_ms else int(life_s),
            "expires_in_sec": int(life_s) if self.settings.expires_in_ms else None,
            "scope": record.scope.replace(",", " ") if self.settings.scope_in_reply else None,
            **self.settings.alter_tokens,
        }
        return Reply(content={name: value for name, value in tokens.items() if value is not None})

    def _drop(self, refresh_token: str) -> None:
        for access_token in self._refreshes.pop(refresh_token).accesses:
            self._accesses.pop(access_token, None)


def new_token() -> str:
    """Return a random token of the form that Zoho's have."""
    return f"1000.{secrets.token_hex(16)}.{secrets.token_hex(16)}"


def s256(verifier: str) -> str:
    """Return the PKCE challenge of a verifier (RFC 7636)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def is_scope(scope: str) -> bool:
    """Tell whether Zoho knows these comma-separated scopes; a space-separated list is unknown."""
    return all(map(_SCOPE.fullmatch, scope.split(",")))
