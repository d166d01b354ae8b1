"""A real HTTP server on loopback that stands in for Zoho's accounts and CRM servers.

The unpatched SDK talks to it through `DataCenter.Environment(url, url + "/oauth/v2/token", url)`. It knows grant,
refresh and access tokens and whose they are, and it can be told to be slow, to fail and to deny. It keeps everything in
memory, takes any client id and secret, and lets a grant token live until it is used.

Other processes steer it over HTTP: `GET /standin/counts`; `POST /standin/settings` with any of `{"delay_s",
"token_life_s", "fail_next", "deny_next"}`; `POST /standin/grant` with nothing or `{"user"}` gives `{"grant_token"}`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import secrets
import signal
import socketserver
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("grant", "refresh", "revoke", "users", "org", "other")
DEFAULT_USER = "ada@example.com"
ZGID = "60001234567"
LIMIT, LIMIT_WINDOW_S = 10, 600.0  # Zoho's: access tokens a refresh token, in this time
_KIND_OF_GRANT_TYPE = {"authorization_code": "grant", "refresh_token": "refresh"}
_TYPES_OF_SETTING = {"delay_s": (int, float), "token_life_s": (int, float), "fail_next": (int,), "deny_next": (int,)}
_MAX_SETTING = 86_400  # a day in seconds, and more faults than any test asks for
_MAX_BODY_BYTES = 65_536


class _Request(NamedTuple):
    method: str
    path: str
    authorization: str
    body: bytes


class _Reply(NamedTuple):
    content: Any
    status: int = 200
    content_type: str = "application/json"


_ACCESS_DENIED = _Reply({"error": "Access Denied"})
_INVALID_CODE = _Reply({"error": "invalid_code"})
_INVALID_TOKEN = {"code": "INVALID_TOKEN", "message": "invalid oauth token", "details": {}, "status": "error"}
_NOT_FOUND = {"code": "INVALID_URL_PATTERN", "message": "no such address", "details": {}, "status": "error"}


class _Refresh(NamedTuple):
    user: str
    issued_at: list[float]


class _Access(NamedTuple):
    user: str
    expires_at: float


class FakeZoho:
    """Zoho's two servers in one, served by background threads for as long as its `with` block lasts.

    Every method and property may be called from any thread. `delay_s`, `token_life_s` and `enforce_limit` are plain
    attributes that may be changed while it serves; `url` is empty until it does, and is kept afterwards.

    Not promised: a revoked refresh token's access tokens stay valid until they expire; nothing limits how many access
    or refresh tokens are valid at once; `/users` knows the caller alone, whatever `type` it is asked for.

    Args:
        port: the TCP port on 127.0.0.1; 0 takes a free one.
        delay_s: how many seconds a token request waits between being counted and being decided and answered.
        token_life_s: how many seconds an access token that is issued from now on stays valid. The SDK takes a token for
            expired 5 s early: with 5 or less it refreshes before every request, with a token that is still valid here.
        enforce_limit: deny a refresh token its 11th access token in 10 minutes; the one of the grant is its first.
        clock: tells the time in seconds; only differences matter.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        delay_s: float = 0.0,
        token_life_s: float = 3600,
        enforce_limit: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.delay_s = delay_s
        self.token_life_s = token_life_s
        self.enforce_limit = enforce_limit
        self.url = ""
        self._port = port
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below, except the routes
        self._counts = dict.fromkeys(KINDS, 0)
        self._grants: dict[str, str] = {}
        self._refreshes: dict[str, _Refresh] = {}
        self._accesses: dict[str, _Access] = {}
        self._revoked: list[str] = []
        self._user_ids: dict[str, str] = {}
        self._failures, self._failure = 0, _INVALID_CODE
        self._denials = 0
        self._routes: dict[tuple[str, str], Callable[[_Request], _Reply]] = {
            ("POST", "/oauth/v2/token"): self._token,
            ("POST", "/oauth/v2/token/revoke"): self._revoke,
            **{("GET", f"/crm/v{version}/users"): partial(self._crm, "users") for version in (5, 6, 7, 8)},
            **{("GET", f"/crm/v{version}/org"): partial(self._crm, "org") for version in (5, 6, 7, 8)},
            ("GET", "/standin/counts"): lambda _: _Reply(self.counts),
            ("POST", "/standin/settings"): self._change,
            ("POST", "/standin/grant"): self._give,
        }

    def __enter__(self) -> Self:
        self._server = _Server(self._port, lambda request: self._routes.get(request[:2], self._other)(request))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # serve_forever looks for a shutdown once per interval: every test would pay its default of 0.5 s.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def token_url(self) -> str:
        """Where tokens are asked for: the SDK's `accounts_url`."""
        return self.url + "/oauth/v2/token"

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
            return list(self._accesses)

    @property
    def revoked(self) -> list[str]:
        """Every refresh token revoked so far, oldest first."""
        with self._lock:
            return list(self._revoked)

    def new_grant(self, user: str = DEFAULT_USER) -> str:
        """Return a grant token that any client can exchange once for tokens of the user with this email address."""
        grant = _new_token()
        with self._lock:
            self._grants[grant] = user
        return grant

    def new_refresh_token(self, user: str = DEFAULT_USER) -> str:
        """Return a valid refresh token of the user with this email address."""
        refresh = _new_token()
        with self._lock:
            self._refreshes[refresh] = _Refresh(user, [])
        return refresh

    def fail_next(self, times: int, status: int = 500, *, html: bool = False) -> None:
        """Answer the next token requests with an HTTP error, before any denial; a grant token is not used up by it.

        Args:
            times: how many requests, in place of what was asked for before; 0 ends the failing.
            status: the HTTP status of the answer.
            html: answer with a page in HTML, as gateways do, instead of JSON.
        """
        page = _Reply(f"<html><body><h1>{status}</h1></body></html>", status, "text/html")
        with self._lock:
            self._failures, self._failure = times, page if html else _Reply({"error": "internal_error"}, status)

    def deny_next(self, times: int) -> None:
        """Answer this many of the next token requests with Zoho's "Access Denied", which has HTTP status 200."""
        with self._lock:
            self._denials = times

    def _note(self, kind: str) -> None:
        with self._lock:
            self._counts[kind] += 1

    def _token(self, request: _Request) -> _Reply:
        form = _form(request)
        kind = _KIND_OF_GRANT_TYPE.get(form.get("grant_type", ""), "other")
        self._note(kind)
        if kind == "other":
            return _Reply({"error": "unsupported_grant_type"}, 400)
        with self._lock:
            fault = self._next_fault()  # on arrival: a request that waits already is none of the next ones
        self._server.closing.wait(self.delay_s)
        if fault is not None:
            return fault
        if not (form.get("client_id") and form.get("client_secret")):
            return _Reply({"error": "invalid_client"})
        if kind == "grant":
            return self._exchange(form.get("code", ""))
        return self._issue(form.get("refresh_token", ""))

    def _next_fault(self) -> _Reply | None:
        if self._failures > 0:
            self._failures -= 1
            return self._failure
        if self._denials > 0:
            self._denials -= 1
            return _ACCESS_DENIED
        return None

    def _exchange(self, grant: str) -> _Reply:
        with self._lock:
            user = self._grants.pop(grant, None)
        if user is None:
            return _INVALID_CODE
        refresh = self.new_refresh_token(user)
        return _Reply({**self._issue(refresh).content, "refresh_token": refresh})

    def _issue(self, refresh: str) -> _Reply:
        access, life_s, now = _new_token(), self.token_life_s, self._clock()
        with self._lock:
            record = self._refreshes.get(refresh)
            if record is None:
                return _INVALID_CODE
            record.issued_at[:] = [then for then in record.issued_at if now - then < LIMIT_WINDOW_S]
            if self.enforce_limit and len(record.issued_at) >= LIMIT:
                return _ACCESS_DENIED
            record.issued_at.append(now)
            self._accesses[access] = _Access(record.user, now + life_s)
        # The loopback URL: with another api_domain the SDK would move to that server at its next request.
        tokens = {"access_token": access, "expires_in": int(life_s), "api_domain": self.url, "token_type": "Bearer"}
        return _Reply(tokens)

    def _revoke(self, request: _Request) -> _Reply:
        refresh = _form(request).get("token", "")
        self._note("revoke")
        with self._lock:
            if self._refreshes.pop(refresh, None) is None:
                return _Reply({"status": "error", "message": "invalid_code"})
            self._revoked.append(refresh)
        return _Reply({"status": "success"})

    def _crm(self, resource: str, request: _Request) -> _Reply:
        self._note(resource)
        scheme, _, access_token = request.authorization.partition(" ")
        with self._lock:
            access = self._accesses.get(access_token)
            if access is None or scheme != "Zoho-oauthtoken" or access.expires_at <= self._clock():
                return _Reply(_INVALID_TOKEN, 401)
            user_id = self._user_ids.setdefault(access.user, str(5_000_000_000_001 + len(self._user_ids)))
        if resource == "org":
            return _Reply({"org": [{"id": "5000000000000", "zgid": ZGID}]})
        info = {"per_page": 200, "count": 1, "page": 1, "more_records": False}
        return _Reply({"users": [{"id": user_id, "email": access.user}], "info": info})

    def _other(self, _: _Request) -> _Reply:
        self._note("other")
        return _Reply(_NOT_FOUND, 404)

    def _change(self, request: _Request) -> _Reply:
        settings = _json_object(request.body)
        for name, value in settings.items():  # all are checked before the first is changed
            if type(value) not in _TYPES_OF_SETTING.get(name, ()) or not 0 <= value <= _MAX_SETTING:
                raise ValueError(name)
        for name, value in settings.items():
            if name.endswith("_next"):
                getattr(self, name)(value)
            else:
                setattr(self, name, value)
        return _Reply({"status": "success"})

    def _give(self, request: _Request) -> _Reply:
        user = _json_object(request.body or b"{}").get("user", DEFAULT_USER)
        return _Reply({"grant_token": self.new_grant(str(user))})


def _new_token() -> str:
    return f"1000.{secrets.token_hex(16)}.{secrets.token_hex(16)}"


def _form(request: _Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=100))


def _json_object(body: bytes) -> dict[str, Any]:
    content = json.loads(body)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 -- a ValueError is answered with 400
    return content


class _Server(ThreadingHTTPServer):
    # HTTP on 127.0.0.1 with a daemon thread a connection. `answer` raises ValueError or RecursionError for a malformed
    # request. `closing` is set when no client waits for answers any more.
    request_queue_size = 128  # socketserver's 5 stalls a burst of processes

    def __init__(self, port: int, answer: Callable[[_Request], _Reply]) -> None:
        self.answer = answer
        self.closing = threading.Event()
        self._connections: set[Any] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: it looks up the host's name, which can hang where no name server answers.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def server_close(self) -> None:
        # Kept connections are cut: they would answer after the end, and be left to the garbage collector unclosed.
        super().server_close()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(2)
            self.closing.set()
            self._changed.wait_for(lambda: not self._connections, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that hung up is no news, a defect of this module is
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = default_request_version = "HTTP/1.1"  # else nonsense is taken for HTTP/0.9, which has no status
    server_version, sys_version = "zoho-standin", ""
    timeout = 60  # seconds a connection may be idle, or its body overdue
    disable_nagle_algorithm = True  # or each answer on a kept connection waits 40 ms for an acknowledgement
    error_content_type = "application/json"
    error_message_format = '{"code": "BAD_REQUEST", "http_status": %(code)d}'

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        try:
            reply = self.server.answer(self._request())
        except (ValueError, RecursionError):
            self.send_error(400)  # and closes the connection: an unread body would be taken for the next request
            return
        content = (reply.content if isinstance(reply.content, str) else json.dumps(reply.content)).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _request(self) -> _Request:
        lengths = self.headers.get_all("Content-Length", ["0"])
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,9}", lengths[0]) or "Transfer-Encoding" in self.headers:
            raise ValueError("a body of unknown length")
        if (length := int(lengths[0])) > _MAX_BODY_BYTES:
            raise ValueError("too long a body")
        if len(body := self.rfile.read(length)) < length:
            raise ValueError("half a body")
        return _Request(self.command, urlsplit(self.path).path, self.headers.get("Authorization", ""), body)

    do_GET = do_POST = _serve  # noqa: N815 -- http.server's names


def _amount(text: str) -> float:
    amount = float(text)
    if not 0 <= amount <= _MAX_SETTING:
        raise ValueError(text)
    return amount


def main() -> None:
    """Serve until the time is over or Ctrl-C is pressed."""
    parser = argparse.ArgumentParser(description="Stand in for Zoho's accounts and CRM servers on 127.0.0.1.")
    parser.add_argument("--port", type=int, choices=range(65_536), default=0, metavar="N", help="default: a free one")
    parser.add_argument("--delay", type=_amount, default=0.0, metavar="SECONDS", help="each token request waits this")
    parser.add_argument("--token-life", type=_amount, default=3600, metavar="SECONDS", help="default: 3600")
    parser.add_argument("--seconds", type=_amount, default=3600, metavar="N", help="stop by itself; default: 3600")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has inherited "ignore"
    try:
        with FakeZoho(port=options.port, delay_s=options.delay, token_life_s=options.token_life) as fake_zoho:
            print(fake_zoho.url)
            print(fake_zoho.new_grant())
            print(f'DataCenter.Environment("{fake_zoho.url}", "{fake_zoho.token_url}", "{fake_zoho.url}")', flush=True)
            time.sleep(options.seconds)
    except KeyboardInterrupt:
        pass
    except OSError as exc:
        parser.error(f"cannot serve on port {options.port}: {exc}")


if __name__ == "__main__":
    main()
