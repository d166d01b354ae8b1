from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import traceback
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import requests

import zoho_keystore
from fake_zoho import FakeZoho, Fault
from zoho_keystore import _http_auth
from zoho_keystore._open import open_memory_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import ConfigurationError, SignInNeededError, TokenNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_keystore._keystore import Keystore

PACKAGE = Path(zoho_keystore.__file__).parent
LOOPBACK = ["127.0.0.1"]


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a fake Zoho."""
    with FakeZoho() as zoho:
        yield zoho


@pytest.fixture
def keystore(zoho: FakeZoho) -> Keystore:
    """Give a store with a token of the fake Zoho, refreshed more than a minute ago."""
    keystore = open_memory_keystore()
    client = zoho.new_client()
    keystore.save(
        TokenRecord(
            client_id=client.id,
            client_secret=client.secrets["us"],
            refresh_token=zoho.new_refresh_token(client=client),
            accounts_url=zoho.url,
        )
    )
    keystore.access_token("1")
    age(keystore)
    return keystore


def age(keystore: Keystore) -> None:
    """Let the access token be older than a minute."""
    keystore.change("1", lambda record, _: replace(record, issued_at=1))


def leads(zoho: FakeZoho) -> str:
    """Return the address of a module."""
    return f"{zoho.api_url('us')}/crm/v8/Leads"


def with_requests(keystore: Keystore, method: str, url: str, **options: Any) -> int:
    """Send a request, and return its status."""
    hosts = options.pop("hosts", LOOPBACK)
    return requests.request(method, url, auth=keystore.auth("1", hosts=hosts), timeout=10, **options).status_code


def with_httpx(keystore: Keystore, method: str, url: str, **options: Any) -> int:
    """Send a request, and return its status."""
    hosts = options.pop("hosts", LOOPBACK)
    options["content"] = options.pop("data", None)
    return httpx.request(method, url, auth=keystore.httpx_auth("1", hosts=hosts), timeout=10, **options).status_code


def with_async_httpx(keystore: Keystore, method: str, url: str, **options: Any) -> int:
    """Send a request, and return its status."""
    hosts = options.pop("hosts", LOOPBACK)
    options["content"] = options.pop("data", None)

    async def send() -> int:
        async with httpx.AsyncClient(auth=keystore.httpx_auth("1", hosts=hosts), timeout=10) as client:
            return (await client.request(method, url, **options)).status_code

    return asyncio.run(send())


SENDERS = [with_requests, with_httpx, with_async_httpx]
senders = pytest.mark.parametrize("send", SENDERS, ids=lambda send: send.__name__)


@senders
def test_request_gets_the_stored_token(zoho: FakeZoho, keystore: Keystore, send: Callable[..., int]) -> None:
    assert send(keystore, "GET", leads(zoho)) == 200
    [request] = zoho.requests_of("leads")
    assert request.headers["authorization"] == f"Zoho-oauthtoken {keystore.require('1').access_token}"
    assert zoho.count("refresh") == 1


@senders
def test_expired_token_is_refreshed_before_the_request(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int]
) -> None:
    keystore.change("1", lambda record, _: replace(record, expires_in="1"))
    assert send(keystore, "GET", leads(zoho)) == 200
    assert (zoho.count("refresh"), zoho.count("leads")) == (2, 1)


@senders
@pytest.mark.parametrize("code", ["INVALID_TOKEN", "INVALID_OAUTHTOKEN", "AUTHENTICATION_FAILURE"])
def test_refused_token_is_renewed_once_and_the_body_sent_again(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int], code: str
) -> None:
    zoho.unauthorized_code = code
    zoho.expire_access_tokens()
    assert send(keystore, "POST", leads(zoho), data=b'{"data": []}') == 201
    assert [request.body for request in zoho.requests_of("leads")] == [b'{"data": []}'] * 2
    assert zoho.count("refresh") == 2
    assert keystore.require("1").access_token == zoho.issued[-1]


@senders
def test_token_that_another_process_renewed_is_used(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int]
) -> None:
    """After the request was sent; Zoho is not asked for one more."""
    good = keystore.require("1").access_token
    keystore.change("1", lambda record, _: replace(record, access_token="1000.old"))
    original = keystore.require
    calls: list[str] = []

    def require(id: str) -> TokenRecord:
        calls.append(id)
        if len(calls) == 2:
            keystore.change("1", lambda record, _: replace(record, access_token=good))
        return original(id)

    keystore.require = require  # type: ignore[method-assign] # for this test
    assert send(keystore, "GET", leads(zoho)) == 200
    assert (zoho.count("refresh"), zoho.count("leads")) == (1, 2)


@senders
@pytest.mark.parametrize(
    "changes", [{"access_token": "1000.x\r\nX-Forged: y"}, {"expires_in": "1"}], ids=["malformed", "old"]
)
def test_token_that_cannot_be_used_is_refreshed_after_a_refusal(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int], changes: dict[str, Any]
) -> None:
    """Another process has put it into the store after the request was sent."""
    original = keystore.require
    calls: list[str] = []

    def require(id: str) -> TokenRecord:
        calls.append(id)
        if len(calls) == 2:
            keystore.change("1", lambda record, _: replace(record, **{"access_token": "1000.other", **changes}))
        return original(id)

    keystore.require = require  # type: ignore[method-assign] # for this test
    zoho.expire_access_tokens()
    assert send(keystore, "GET", leads(zoho)) == 200
    assert (zoho.count("refresh"), zoho.count("leads")) == (2, 2)


@senders
def test_token_that_another_process_renews_at_the_same_moment_is_used(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before this one would."""
    good = keystore.require("1").access_token
    keystore.change("1", lambda record, _: replace(record, access_token="1000.old"))

    def is_new(_record: TokenRecord, now_ms: int) -> bool:
        keystore.change("1", lambda record, _: replace(record, access_token=good, issued_at=now_ms))
        return False

    monkeypatch.setattr(_http_auth, "is_new", is_new)
    assert send(keystore, "GET", leads(zoho)) == 200
    assert (zoho.count("refresh"), zoho.count("leads")) == (1, 2)


@senders
@pytest.mark.parametrize(
    "fault",
    [
        Fault.crm_error("OAUTH_SCOPE_MISMATCH"),
        Fault.crm_error("NO_PERMISSION"),
        Fault.crm_error("INVALID_TOKEN", 403),
        Fault.html(401),
        Fault.json([1], 401),
        Fault.json({"code": ["INVALID_TOKEN"]}, 401),
        Fault.text("[" * 100_000, 401),
    ],
    # A variable of Windows is too short for more.
    ids=lambda fault: str(fault)[:100],
)
def test_other_refusal_is_returned_as_it_is(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int], fault: Fault
) -> None:
    zoho.reply_next(fault, to="leads")
    assert send(keystore, "GET", leads(zoho)) in {401, 403}
    assert (zoho.count("refresh"), zoho.count("leads")) == (1, 1)


@senders
def test_refusal_of_a_new_token_is_returned(zoho: FakeZoho, keystore: Keystore, send: Callable[..., int]) -> None:
    """A request to the wrong data centre must not end in a throttle, with a refresh each time."""
    zoho.reply_next(Fault.crm_error("INVALID_TOKEN"), times=9, to="leads")
    assert [send(keystore, "GET", leads(zoho)) for _ in range(3)] == [401, 401, 401]
    assert (zoho.count("refresh"), zoho.count("leads")) == (2, 4)


@senders
def test_token_that_cannot_be_renewed_is_an_error_without_secrets(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int]
) -> None:
    record = keystore.require("1")
    zoho.reply_next(Fault.crm_error("INVALID_TOKEN"), to="leads")
    zoho.reply_next(Fault.error("invalid_code"))
    with pytest.raises(SignInNeededError) as caught:
        send(keystore, "GET", leads(zoho))
    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        if PACKAGE in Path(frame.f_code.co_filename).parents:
            for secret in (record.access_token, record.refresh_token, record.client_secret):
                assert secret is not None
                assert secret not in repr(frame.f_locals)
    zoho.reply_next(Fault.crm_error("INVALID_TOKEN"), to="leads")
    with pytest.raises(SignInNeededError):
        send(keystore, "GET", leads(zoho))
    assert zoho.count("refresh") == 2  # Zoho is not asked again with what it has refused.


# --- Bodies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["text", b"bytes", None, {"a": "b"}], ids=str)
def test_requests_repeats_a_body_in_memory(zoho: FakeZoho, keystore: Keystore, data: Any) -> None:
    zoho.expire_access_tokens()
    assert with_requests(keystore, "POST", leads(zoho), data=data) == 201
    first, second = zoho.requests_of("leads")
    assert first.body == second.body


def test_requests_repeats_a_file_from_where_it_was(zoho: FakeZoho, keystore: Keystore) -> None:
    file = io.BytesIO(b"head and body")
    file.seek(5)
    zoho.expire_access_tokens()
    assert with_requests(keystore, "POST", leads(zoho), data=file) == 201
    assert [request.body for request in zoho.requests_of("leads")] == [b"and body"] * 2


class Refusing(requests.adapters.BaseAdapter):
    """Refuse each request as Zoho does."""

    sent = 0

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override] # the rest is not looked at
        """Count the request."""
        self.sent += 1
        response = requests.Response()
        response.status_code, response.request, response.url = 401, request, request.url or ""
        response.raw = io.BytesIO(b'{"code": "INVALID_TOKEN"}')
        response.connection = self  # type: ignore[assignment] # an adapter is enough
        return response

    def close(self) -> None:
        """Close nothing."""


@pytest.mark.parametrize(("kind", "sent"), [("pipe", 1), ("generator", 1), ("bytes", 2)])
def test_requests_does_not_repeat_what_can_be_read_once(
    zoho: FakeZoho, keystore: Keystore, kind: str, sent: int
) -> None:
    """A pipe has tell(), which fails."""
    adapter = Refusing()
    read, write = os.pipe()
    os.close(write)
    with open(read, "rb") as pipe, requests.Session() as session:
        body: Any = {"pipe": pipe, "generator": iter([b"a"]), "bytes": b"a"}[kind]
        session.mount("http://", adapter)
        response = session.post(leads(zoho), data=body, auth=keystore.auth("1", hosts=LOOPBACK), timeout=10)
    assert (response.status_code, adapter.sent, zoho.count("refresh")) == (401, sent, sent)


class RefusingTransport(httpx.BaseTransport):
    """Refuse each request as Zoho does."""

    sent = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Count the request."""
        assert request.headers["authorization"]
        self.sent += 1
        return httpx.Response(401, json={"code": "INVALID_TOKEN"})


@pytest.mark.parametrize(("body", "sent"), [(b"a", 2), (iter([b"a"]), 1)], ids=["bytes", "iterator"])
def test_httpx_does_not_repeat_what_can_be_read_once(zoho: FakeZoho, keystore: Keystore, body: Any, sent: int) -> None:
    transport = RefusingTransport()
    with httpx.Client(transport=transport, auth=keystore.httpx_auth("1", hosts=LOOPBACK)) as client:
        assert client.post(leads(zoho), content=body).status_code == 401
    assert (transport.sent, zoho.count("refresh")) == (sent, sent)


def test_requests_leaves_a_stream_unread(zoho: FakeZoho, keystore: Keystore) -> None:
    """Of a download, the body is read by the caller."""
    with requests.get(leads(zoho), auth=keystore.auth("1", hosts=LOOPBACK), stream=True, timeout=10) as response:
        assert not response._content_consumed  # type: ignore[attr-defined] # not in the stubs
        assert response.json()


def test_requests_session_has_both_responses(zoho: FakeZoho, keystore: Keystore) -> None:
    with requests.Session() as session:
        session.auth = keystore.auth("1", hosts=LOOPBACK)
        zoho.expire_access_tokens()
        response = session.get(leads(zoho), timeout=10)
        assert [one.status_code for one in response.history] == [401]
        assert response.request.headers["Authorization"].endswith(zoho.issued[-1])
        assert session.get(leads(zoho), timeout=10).history == []


# --- Hosts ----------------------------------------------------------------------------------------------------------

NOT_ALLOWED = [
    ("https://evil.example/", LOOPBACK),
    ("http://www.zohoapis.com/", []),
    ("https://www.zohoapis.com.evil.example/", []),
    ("https://evil.example/?www.zohoapis.com", []),
    ("https://www.zohoapis.com@evil.example/", []),
    ("http://named.example/", ["named.example"]),
    ("http://127.0.0.1:1/", []),
    ("http://127.0.0.1:1/", ["127.0.0.2"]),
    ("https://accounts.zoho.com/", []),
]


@senders
@pytest.mark.parametrize(("url", "hosts"), NOT_ALLOWED)
def test_token_is_sent_to_no_other_host(
    zoho: FakeZoho, keystore: Keystore, send: Callable[..., int], url: str, hosts: list[str]
) -> None:
    """Nothing is sent at all, not even a name is looked up."""
    with pytest.raises(ConfigurationError, match=r"give hosts=\["):
        send(keystore, "GET", url, hosts=hosts)
    assert zoho.count("refresh") == 1


def test_address_that_parsers_read_differently_is_refused(keystore: Keystore) -> None:
    """It would connect to evil.example, which urlsplit takes for the user's name."""
    with pytest.raises(ConfigurationError, match=r"not to 'evil.example'"):
        with_requests(keystore, "GET", "https://evil.example\\@www.zohoapis.com/")


@pytest.mark.parametrize(
    ("scheme", "host"),
    [
        ("https", "www.zohoapis.eu"),
        ("https", "WWW.ZohoAPIs.eu"),
        ("https", "sandbox.zohoapis.com.au"),
        ("https", "developer.zohoapis.in"),
        ("https", "named.example"),
        ("https", "localhost"),
        ("http", "::1"),
    ],
)
def test_token_is_sent_to_zoho_and_to_named_hosts(keystore: Keystore, scheme: str, host: str) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    auth = keystore.httpx_auth("1", hosts=["Named.Example", "localhost", "[::1]"])
    address = f"[{host}]" if ":" in host else host
    with httpx.Client(transport=httpx.MockTransport(answer), auth=auth) as client:
        client.get(f"{scheme}://{address}/crm")
    assert sent[0].headers["authorization"].startswith("Zoho-oauthtoken ")


class Elsewhere(BaseHTTPRequestHandler):
    """A server that redirects "/to/…" there, and refuses everything else as Zoho does; it notes the headers."""

    seen: list[str | None]

    def do_GET(self) -> None:
        """Answer."""
        self.seen.append(self.headers.get("Authorization"))
        body = json.dumps({"code": "INVALID_TOKEN"}).encode()
        self.send_response(307 if self.path.startswith("/to/") else 401)
        self.send_header("Location", self.path.removeprefix("/to/"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def elsewhere() -> Iterator[ThreadingHTTPServer]:
    """Give another server of this machine."""
    Elsewhere.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@senders
def test_token_is_not_sent_after_a_redirect_elsewhere(
    zoho: FakeZoho, keystore: Keystore, elsewhere: ThreadingHTTPServer, send: Callable[..., int]
) -> None:
    """The other server asks for it as Zoho would; another port is another server."""
    port = elsewhere.server_address[1]
    zoho.reply_next(Fault.redirect(f"http://localhost:{port}/"), to="leads")
    options = {} if send is with_requests else {"follow_redirects": True}
    assert send(keystore, "GET", leads(zoho), hosts=["127.0.0.1", "localhost"], **options) == 401
    assert Elsewhere.seen == [None]
    assert zoho.count("refresh") == 1


def test_token_is_not_sent_after_a_redirect_to_a_host_of_netrc(
    zoho: FakeZoho, keystore: Keystore, elsewhere: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There requests adds a header of its own, which the other server refuses as Zoho would."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login ada password x")
    monkeypatch.setenv("NETRC", str(netrc))
    zoho.reply_next(Fault.redirect(f"http://localhost:{elsewhere.server_address[1]}/"), to="leads")
    assert with_requests(keystore, "GET", leads(zoho)) == 401
    [header] = Elsewhere.seen
    assert str(header).startswith("Basic ")
    assert zoho.count("refresh") == 1


@senders
def test_refusal_after_a_redirect_within_the_server(
    zoho: FakeZoho, keystore: Keystore, elsewhere: ThreadingHTTPServer, send: Callable[..., int]
) -> None:
    """With requests the redirected request is sent once more; httpx returns the refusal."""
    url = f"http://127.0.0.1:{elsewhere.server_address[1]}"
    options = {} if send is with_requests else {"follow_redirects": True}
    assert send(keystore, "GET", f"{url}/to/{url}/", **options) == 401
    assert len(Elsewhere.seen) == (3 if send is with_requests else 2)
    assert zoho.count("refresh") == (2 if send is with_requests else 1)


# --- Arguments ------------------------------------------------------------------------------------------------------


@senders
def test_unknown_id_is_an_error_at_the_request(zoho: FakeZoho, send: Callable[..., int]) -> None:
    with pytest.raises(TokenNotFoundError):
        send(open_memory_keystore(), "GET", leads(zoho))


def test_hosts_as_a_text_are_refused(keystore: Keystore) -> None:
    """Each letter would be a host."""
    for auth in (keystore.auth, keystore.httpx_auth):
        with pytest.raises(ConfigurationError, match=r"Give hosts=\['localhost'\]"):
            auth("1", hosts="localhost")


@pytest.mark.parametrize(("module", "method"), [("requests.auth", "auth"), ("httpx", "httpx_auth")])
def test_missing_library_is_named(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch, module: str, method: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=f"the library {module.partition('.')[0]} is not installed. Install"):
        getattr(keystore, method)("1")
