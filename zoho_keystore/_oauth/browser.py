"""Sign-in by browser: the authorization request with PKCE, and the callback to this machine (RFC 8252, RFC 7636)."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import queue
import secrets
import socket
import sys
import threading
import webbrowser
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from zoho_keystore._oauth.data_centres import DATA_CENTRES, LOOPBACK_HOSTS, DataCentre, by_accounts_url
from zoho_keystore.errors import ConfigurationError, KeystoreError, SignInError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The redirect URI to register with the client, unless another one is given.
DEFAULT_REDIRECT_URI = "http://localhost:18734/callback"

#: How long the browser waits for the exchange of the code before it is shown a page, in seconds.
_PAGE_WAIT_S = 30.0

_MAX_PASTED_CHARACTERS = 8_192

_PAGES = {
    "/signed-in": (200, "You are signed in. You can close this page."),
    "/failed": (200, "The sign-in failed. The terminal says why. You can close this page."),
}
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Callback(NamedTuple):
    """What Zoho's redirect brings, after its state was checked.

    Attributes:
        code: The authorization code; empty when the user refused.
        accounts_server: The accounts server that it names; empty if none. It can be forged.
        location: The location that it names; empty if none.
    """

    code: str
    accounts_server: str
    location: str

    def __repr__(self) -> str:
        """Leave out the code."""
        return f"<Callback from {self.location or 'no location'}>"


@dataclass(frozen=True)
class AuthorizationRequest:
    """One authorization request.

    Attributes:
        url: The address to open in a browser.
        redirect_uri: Where the callback goes.
        state: Ties the callback to this request. Secret until then.
        verifier: The PKCE verifier. Secret.
    """

    url: str = field(repr=False)
    redirect_uri: str
    state: str = field(repr=False)
    verifier: str = field(repr=False)

    @classmethod
    def make(cls, centre: DataCentre, client_id: str, scope: str, redirect_uri: str) -> AuthorizationRequest:
        """Return a new request.

        Args:
            centre: Where to sign in.
            client_id: The OAuth client.
            scope: The scopes, comma-separated.
            redirect_uri: The redirect URI that is registered with the client.
        """
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(64)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "client_id": client_id,
            "response_type": "code",
            "redirect_uri": redirect_uri,
            "scope": scope,
            # Without both, no refresh token comes when a user signs in for the second time.
            "access_type": "offline",
            "prompt": "consent",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return cls(f"{centre.accounts_url}/oauth/v2/auth?{urlencode(parameters)}", redirect_uri, state, verifier)

    def callback(self, query: str) -> Callback | None:
        """Return what a callback's query brings; None when it does not belong to this request.

        A wrong or missing state, a doubled parameter or a query without code and error belongs to no request of ours.
        """
        pairs = parse_qsl(query, keep_blank_values=True)
        parameters = dict(pairs)
        if len(parameters) != len(pairs):
            return None
        if not hmac.compare_digest(parameters.get("state", "").encode(), self.state.encode()):
            return None
        if not parameters.get("code") and not parameters.get("error"):
            return None
        code = "" if parameters.get("error") else parameters["code"]
        return Callback(code, parameters.get("accounts-server", "").rstrip("/"), parameters.get("location", ""))

    def pasted(self, text: str) -> Callback | None:
        """Return what a pasted callback address brings; None when it does not belong to this request."""
        text = text.strip()
        if len(text) > _MAX_PASTED_CHARACTERS:
            return None
        try:
            return self.callback(urlsplit(text).query)
        except ValueError:
            return None


def accounts_url_of(callback: Callback, centre: DataCentre) -> DataCentre:
    """Return the data centre to exchange the code at: the one that was named, or the one of the table that Zoho names.

    Raises:
        SignInError: The callback names a server that is neither, so that nothing may be sent there.
    """
    if not callback.accounts_server or callback.accounts_server == centre.accounts_url:
        named = centre
    elif not centre.location or (found := by_accounts_url(callback.accounts_server)) is None:
        raise SignInError(
            "the callback names an accounts server that is not Zoho's; nothing was sent there",
            "Sign in again, and if it comes back, find out which program sends such callbacks",
        )
    else:
        named = found
    if centre.location and callback.location and named.location != callback.location and callback.accounts_server:
        raise SignInError(
            "the callback names a location and an accounts server that do not belong together; nothing was sent",
            "Sign in again, and if it comes back, find out which program sends such callbacks",
        )
    if centre.location and callback.location and not callback.accounts_server:
        return DATA_CENTRES.get(callback.location, centre)
    return named


class CallbackListener:
    """Wait for the callback on this machine, or for its pasted address.

    Attributes:
        callbacks: Receives each callback that belongs to the request.
    """

    def __init__(self, request: AuthorizationRequest) -> None:
        self.request = request
        self.callbacks: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        parts = urlsplit(request.redirect_uri)
        self.path = parts.path or "/"
        self.port = parts.port or 80
        self._outcome = threading.Event()
        self._page = "/failed"

    def finish(self, *, signed_in: bool) -> None:
        """Show the browser how the sign-in ended."""
        self._page = "/signed-in" if signed_in else "/failed"
        self._outcome.set()

    def page(self) -> str:
        """Wait for the end of the sign-in, and return the path of its page."""
        self._outcome.wait(_PAGE_WAIT_S)
        return self._page

    def wait(self, timeout_s: float) -> Callback:
        """Return the first callback.

        Raises:
            SignInError: None came in time.
        """
        try:
            return self.callbacks.get(timeout=timeout_s)
        except queue.Empty:
            raise SignInError(
                f"no sign-in within {timeout_s:g} s",
                "If the browser showed an error page of Zoho's: check the client id, the data centre (--dc), the "
                f"scopes, and that {self.request.redirect_uri} is registered with the client. Then sign in again",
            ) from None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen meanwhile, on both loopback addresses: otherwise another user's program could take the other one.

        Raises:
            ConfigurationError: The port is taken.
        """
        with ExitStack() as stack:
            for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                try:
                    server = _Server(family, host, self)
                except OSError as error:
                    if family == socket.AF_INET6 and error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                        continue  # No IPv6 on this machine.
                    raise ConfigurationError(
                        f"cannot listen on port {self.port} of {host}: {(error.strerror or 'unknown').lower()}",
                        "Stop the program that uses the port, or register another redirect URI with the client and "
                        "give it as --redirect-uri",
                    ) from error
                thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
                thread.start()
                stack.callback(thread.join)
                stack.callback(server.server_close)
                stack.callback(server.shutdown)
            try:
                yield
            finally:
                self._outcome.set()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # On Windows this option would let another program listen on the same port.
    allow_reuse_address = os.name != "nt"

    def __init__(self, family: socket.AddressFamily, host: str, listener: CallbackListener) -> None:
        self.address_family = family
        self.listener = listener
        super().__init__((host, listener.port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Not HTTPServer's, which asks the name service for this machine's name.
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "localhost", self.listener.port

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a traceback of the handler could show the callback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "zoho-keystore", ""
    timeout = 10

    def log_message(self, *_: object) -> None:
        """Log nothing: the request line holds the code."""

    def do_GET(self) -> None:
        listener = self.server.listener
        if not self._is_for_us(listener.port):
            return self._answer(400, "This address is not served here.")
        path, _, query = self.path.partition("?")
        if path in _PAGES and path != listener.path and not query:
            return self._answer(*_PAGES[path])
        if path != listener.path:
            return self._answer(404, "There is nothing here.")
        callback = listener.request.callback(query)
        if callback is None:
            return self._answer(400, "This is not the answer to the running sign-in, which goes on waiting.")
        listener.callbacks.put(callback)
        # To a clean address, so that the code does not stay in the browser's history.
        self.send_response(303)
        self.send_header("Location", listener.page())
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _is_for_us(self, port: int) -> bool:
        # A page of another site whose name was pointed at this machine (DNS rebinding) sends that name.
        hosts = {f"[{host}]" if ":" in host else host for host in LOOPBACK_HOSTS}
        return self.headers.get("Host", "") in {f"{host}:{port}" for host in hosts}

    def _answer(self, status: int, text: str) -> None:
        page = f"<!doctype html><meta charset=utf-8><title>zoho-keystore</title><p>{text}\n".encode()
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(page)


def require_redirect_uri(uri: str) -> None:
    """Refuse what cannot be a redirect URI of this program.

    Raises:
        ConfigurationError: It is not http to this machine, with a port and a path.
    """
    try:
        parts = urlsplit(uri)
        is_usable = (
            parts.scheme == "http"
            and parts.hostname in LOOPBACK_HOSTS
            and bool(parts.port)
            and not parts.query
            and not parts.fragment
            and parts.path not in _PAGES
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigurationError(
            "the redirect URI is not one of this machine",
            f"Register one like {DEFAULT_REDIRECT_URI} with the client: http, localhost, a port and a path",
        )


def open_browser(url: str) -> bool:
    """Open an address in the user's browser; return False where there is none, or only one that takes the terminal."""
    has_display = sys.platform in {"win32", "darwin"} or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    if not has_display and not os.environ.get("BROWSER"):
        return False
    try:
        browser = webbrowser.get()
        # GenericBrowser itself is a program in the terminal; its subclass BackgroundBrowser is not.
        return type(browser) is not webbrowser.GenericBrowser and browser.open(url)
    except (webbrowser.Error, OSError):
        return False


def sign_in(
    request: AuthorizationRequest,
    exchange: Callable[[Callback], None],
    *,
    timeout_s: float,
    show: Callable[[str], None],
    paste: Callable[[Callable[[str], bool]], None],
) -> None:
    """Wait for the callback of a request and exchange its code.

    Args:
        request: The request.
        exchange: Exchanges the code and saves the tokens.
        timeout_s: For how many seconds to wait for the user.
        show: Shows the user the address to open, once the callback can come.
        paste: Starts to read pasted addresses; it calls its argument with each, until that returns True.

    Raises:
        SignInError: The user refused, or nothing came in time.
        ConfigurationError: The port is taken.
        KeystoreError: As ``exchange``.
    """
    listener = CallbackListener(request)

    def take_pasted(text: str) -> bool:
        callback = request.pasted(text)
        if callback is not None:
            listener.callbacks.put(callback)
        return callback is not None

    with listener.listening():
        show(request.url)
        paste(take_pasted)
        callback = listener.wait(timeout_s)
        try:
            if not callback.code:
                raise SignInError("the sign-in was refused on Zoho's page; nothing was kept", "Sign in again")
            exchange(callback)
        except KeystoreError:
            listener.finish(signed_in=False)
            raise
        listener.finish(signed_in=True)
