"""The fake Zoho that tests hold: rules and HTTP put together."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote_plus

from fake_zoho import _crm as crm
from fake_zoho._accounts import DEFAULT_REDIRECT, Accounts, Client, ClientKind
from fake_zoho._messages import Fault, Reply, Request, crm_error, error_reply, parse_form
from fake_zoho._server import Listener, Received
from fake_zoho._settings import DEFAULT_USER, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TOKEN_KINDS = ("grant", "refresh", "credentials")  # the token endpoint's
_OAUTH_KINDS = ("revoke", "authorize", "consent", "device_code", "device_token", "device_page", "serverinfo")
KINDS = (*_TOKEN_KINDS, *_OAUTH_KINDS, *crm.RESOURCES, "other")
_KIND_OF_GRANT_TYPE = {"authorization_code": "grant", "refresh_token": "refresh", "client_credentials": "credentials"}
_ROUTES = {
    ("GET", "/oauth/v2/auth"): "authorize",
    ("POST", "/oauth/v2/auth/consent"): "consent",
    ("POST", "/oauth/v2/token/revoke"): "revoke",
    ("POST", "/oauth/v3/device/code"): "device_code",
    ("POST", "/oauth/v3/device/token"): "device_token",
    ("GET", "/oauth/v3/device"): "device_page",
    ("POST", "/oauth/v3/device"): "device_page",
    ("GET", "/oauth/serverinfo"): "serverinfo",
}
_CRM_PATH = re.compile(r"/crm/v[2-8]/(users|org|Leads)")
_SECRET_FIELDS = ("client_secret", "code", "code_verifier", "refresh_token", "token")
_MAX_RECORDED = 20_000
# fail_next and deny_next replace what they asked for before, and come in this order.
_FAIL, _DENY, _QUEUED = range(3)


@dataclass
class _Pending:
    source: int
    fault: Fault
    to: str
    times: int


@dataclass(kw_only=True, eq=False, repr=False)
class FakeZoho(Settings):
    """Zoho's servers, served by background threads for as long as its `with` block lasts.

    Every method and property may be called from any thread. URLs are empty until it serves, and are kept afterwards. It
    can serve again, with the tokens that it knows.

    Not promised: TLS; Zoho's limits on the number of live tokens for tokens that belong to no registered client.

    Attributes:
        locations: The data centres. Users live in the first one, except those of `new_user`.
        port: The TCP port of the first location; 0 takes a free one. The others always take free ones.
        separate_api: Serve the CRM on a port of its own in each location.
        ipv6: Listen on [::1] too, on the same ports.
        clock: Tells the time in seconds; only differences matter.
    """

    locations: Sequence[str] = ("us",)
    port: int = 0
    separate_api: bool = False
    ipv6: bool = False
    clock: Callable[[], float] = time.monotonic
    _advanced_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        """Start with no clients, no tokens and no requests."""
        self._lock = threading.Lock()  # guards everything below
        self._accounts_urls = dict.fromkeys(self.locations, "")
        self._api_urls = dict.fromkeys(self.locations, "")
        self._accounts = Accounts(self, tuple(self.locations), self._accounts_urls, self._api_urls)
        self._counts = dict.fromkeys(KINDS, 0)
        self._requests: deque[Request] = deque(maxlen=_MAX_RECORDED)
        self._pending: list[_Pending] = []

    def __enter__(self) -> Self:
        self._closing = threading.Event()
        with ExitStack() as stack:
            for location in self.locations:
                port = self.port if location == self.locations[0] else 0
                serves = ("/oauth/",) if self.separate_api else ("/oauth/", "/crm/")
                self._accounts_urls[location] = self._listen(stack, port, location, serves)
                self._api_urls[location] = (
                    self._listen(stack, 0, location, ("/crm/",)) if self.separate_api else self._accounts_urls[location]
                )
            self._running = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._running.close()

    def _listen(self, stack: ExitStack, port: int, location: str, serves: tuple[str, ...]) -> str:
        answer = partial(self._answer, location, serves)
        listener = Listener(("127.0.0.1", port), answer)
        stack.callback(listener.stop)
        if self.ipv6:
            second = Listener(("::1", listener.port), answer)
            stack.callback(second.stop)
            second.start()
        listener.start()
        return f"http://127.0.0.1:{listener.port}"

    # Addresses

    @property
    def url(self) -> str:
        """The first location's accounts server; also its CRM server, unless that is separate."""
        return self._accounts_urls[self.locations[0]]

    @property
    def token_url(self) -> str:
        """Where tokens are asked for: the SDK's `accounts_url`."""
        return self.url + "/oauth/v2/token"

    def accounts_url(self, location: str) -> str:
        """Return a location's accounts server."""
        return self._accounts_urls[location]

    def api_url(self, location: str) -> str:
        """Return a location's CRM server."""
        return self._api_urls[location]

    # What tests set up

    def new_client(
        self,
        kind: ClientKind = "server-based",
        *,
        redirect_uris: Sequence[str] = (DEFAULT_REDIRECT,),
        locations: Sequence[str] | None = None,
        needs_secret: bool = True,
    ) -> Client:
        """Register a client, with another secret in each location; without `locations` it is enabled in all."""
        enabled = self.locations if locations is None else locations
        client = Client(
            f"1000.{secrets.token_hex(15).upper()}",
            kind,
            {location: secrets.token_hex(21) for location in enabled},
            tuple(redirect_uris),
            needs_secret,
        )
        with self._lock:
            self._accounts.add_client(client)
        return client

    def new_user(self, email: str, location: str) -> None:
        """Place a user in a location. Users that are not placed live in the first one."""
        with self._lock:
            self._accounts.set_home(email, location)

    def new_grant(
        self, user: str = DEFAULT_USER, client: Client | None = None, *, scope: str = "", life_s: float = float("inf")
    ) -> str:
        """Return a grant token, as the console gives it to a self client, that can be exchanged once.

        Args:
            user: Whose tokens it is exchanged for.
            client: The only client that may exchange it; None: any.
            scope: Comma-separated; empty: everything.
            life_s: Seconds until it expires.
        """
        with self._lock:
            return self._accounts.add_code(user, client, scope, self.now() + life_s)

    def new_refresh_token(self, user: str = DEFAULT_USER, client: Client | None = None, *, scope: str = "") -> str:
        """Return a valid refresh token of this user and client (None: any client)."""
        with self._lock:
            return self._accounts.add_refresh(user, client.id if client else None, scope)

    def approve_device(self, user_code: str, user: str = DEFAULT_USER) -> None:
        """Connect the device that shows this code; an unknown code raises LookupError."""
        self._set_device(user_code, user)

    def reject_device(self, user_code: str) -> None:
        """Reject the device that shows this code; an unknown code raises LookupError."""
        self._set_device(user_code, None)

    def _set_device(self, user_code: str, user: str | None) -> None:
        with self._lock:
            if not self._accounts.set_device(user_code, user):
                raise LookupError(user_code)

    def expire_access_tokens(self) -> None:
        """End all access tokens, as an administrator can."""
        with self._lock:
            self._accounts.expire_all()

    def now(self) -> float:
        """Return the fake server's time in seconds."""
        return self.clock() + self._advanced_s

    def advance(self, seconds: float) -> None:
        """Move the fake server's clock on; waits do not end sooner by it."""
        self._advanced_s += seconds

    # Faults

    def reply_next(self, fault: Fault, times: int = 1, to: str = "token") -> None:
        """Answer the next requests wrongly, after the faults that were asked for before.

        Args:
            fault: What happens in place of the right reply.
            times: How many requests.
            to: One of `KINDS`, or "token" for all kinds of the token endpoint.
        """
        if to not in (*KINDS, "token"):
            raise ValueError(f"{to!r} is no kind of request")
        self._put(_QUEUED, fault, times, to)

    def clear_faults(self) -> None:
        """Forget the faults that were asked for and have not happened yet."""
        with self._lock:
            self._pending.clear()

    def fail_next(self, times: int, status: int = 500, *, html: bool = False) -> None:
        """Answer the next token requests with an HTTP error, before any other fault; no grant is used up by it.

        Args:
            times: How many requests, in place of what was asked for before; 0 ends the failing.
            status: The HTTP status of the answer.
            html: Answer with a page in HTML, as gateways do, instead of JSON.
        """
        self._put(_FAIL, Fault.html(status) if html else Fault.error("internal_error", status), times)

    def deny_next(self, times: int, status: int = 200) -> None:
        """Answer this many of the next token requests with Zoho's throttle; replaces what was asked for before."""
        self._put(_DENY, Fault.error("Access Denied", status), times)

    def _put(self, source: int, fault: Fault, times: int, to: str = "token") -> None:
        with self._lock:
            kept = [pending for pending in self._pending if pending.source != source or source == _QUEUED]
            self._pending = sorted([*kept, _Pending(source, fault, to, times)], key=lambda pending: pending.source)

    # What happened

    @property
    def requests(self) -> list[Request]:
        """Every request so far, oldest first; each is noted when it arrives."""
        with self._lock:
            return list(self._requests)

    def requests_of(self, kind: str) -> list[Request]:
        """Return the requests of one of `KINDS`, oldest first."""
        return [request for request in self.requests if request.kind == kind]

    @property
    def counts(self) -> dict[str, int]:
        """How often each of `KINDS` was asked for so far, whatever the answer was."""
        with self._lock:
            return dict(self._counts)

    def count(self, kind: str) -> int:
        """Return how often one of `KINDS` was asked for so far."""
        return self.counts[kind]

    @property
    def issued(self) -> list[str]:
        """Every access token issued so far, oldest first."""
        with self._lock:
            return list(self._accounts.issued)

    @property
    def revoked(self) -> list[str]:
        """Every refresh token revoked so far, oldest first."""
        with self._lock:
            return list(self._accounts.revoked)

    def secrets_in_urls(self) -> list[str]:
        """Return the request targets and referrers so far that contain a secret: there should be none.

        Secrets are what the fake server handed out, and the values of secret fields in forms.
        """
        requests = self.requests
        with self._lock:
            known = self._accounts.secrets
        for request in requests:
            known |= {value for name, value in _form(request.body).items() if name in _SECRET_FIELDS and len(value) > 7}
        seen = [address for request in requests for address in (request.target, request.headers.get("referer", ""))]
        return [address for address in seen if any(secret in unquote_plus(address) for secret in known)]

    # Serving

    def _answer(self, location: str, serves: tuple[str, ...], received: Received) -> Reply:
        is_served = received.path.startswith(serves)
        kind = _kind(received) if is_served else "other"
        request = Request(
            kind, location, received.method, received.path, received.query, received.headers, received.body, self.now()
        )
        with self._lock:
            self._counts[kind] += 1
            self._requests.append(request)
            fault = self._next_fault(kind)  # on arrival: a request that waits already is none of the next ones
        if self._closing.wait((self.delay_s if kind in _TOKEN_KINDS else 0) + (fault.wait_s if fault else 0)):
            return Reply(ending="closed")
        if fault and fault.reply and not fault.carried_out:
            return fault.reply
        with self._lock:
            reply = self._decide(request) if is_served else crm_error("INVALID_URL_PATTERN", 404)
        return fault.reply if fault and fault.reply else reply

    def _next_fault(self, kind: str) -> Fault | None:
        for pending in self._pending:
            if pending.times > 0 and (pending.to == kind or (pending.to == "token" and kind in _TOKEN_KINDS)):
                pending.times -= 1
                return pending.fault
        return None

    def _decide(self, request: Request) -> Reply:
        if request.kind in crm.RESOURCES:
            return crm.answer(self._accounts, request, self.now())
        if request.kind != "other":
            return self._accounts.answer(request, self.now())
        if request.path == "/oauth/v2/token":
            return error_reply("unsupported_grant_type", 400)
        return crm_error("INVALID_URL_PATTERN", 404)


def _kind(received: Received) -> str:
    if (received.method, received.path) == ("POST", "/oauth/v2/token"):
        return _KIND_OF_GRANT_TYPE.get(parse_form(received.body.decode()).get("grant_type", ""), "other")
    if match := _CRM_PATH.fullmatch(received.path):
        resource = match[1].lower()
        return resource if received.method == "GET" or resource == "leads" else "other"
    return _ROUTES.get((received.method, received.path), "other")


def _form(body: bytes) -> Mapping[str, str]:
    try:
        return parse_form(body.decode())
    except ValueError:
        return {}
