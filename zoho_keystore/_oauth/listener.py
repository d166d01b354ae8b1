"""The web server that receives the callback of a sign-in: on loopback, for one path, for as long as it takes."""

from __future__ import annotations

import errno
import queue
import socket
import socketserver
import threading
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zoho_keystore import _platform as platform
from zoho_keystore._oauth.data_centres import LOOPBACK_HOSTS
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_T = TypeVar("_T")

#: For how long the browser is given to ask for the last page, in seconds.
_LAST_PAGE_S = 3.0

_HTTP_PORT = 80

_SIGNED_IN = "/signed-in"
_FAILED = "/failed"
_PAGES = {
    _SIGNED_IN: ("Signed in", "You can close this page, and go on in the terminal."),
    _FAILED: ("The sign-in has failed", "The terminal says why. You can close this page."),
}
#: The paths of pages, which no redirect URI can have.
PAGE_PATHS = frozenset(_PAGES)

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Outcome:
    """How the sign-in has ended, for the browser that waits for it."""

    def __init__(self) -> None:
        self._page = _FAILED
        self._ended = threading.Event()
        self._awaited = threading.Event()
        self._shown = threading.Event()

    def succeed(self) -> None:
        """Note that the tokens are kept."""
        self._page = _SIGNED_IN

    def end(self) -> None:
        """Let the browser go on, and wait until it has the last page: afterwards nothing answers it any more."""
        self._ended.set()
        if self._awaited.is_set():
            self._shown.wait(_LAST_PAGE_S)

    def expect(self) -> None:
        """Note that a browser waits for the last page."""
        self._awaited.set()

    def page(self) -> str:
        """Wait for the end of the sign-in, and return the path of its page."""
        self._ended.wait()
        return self._page

    def shown(self) -> None:
        """Note that the browser has the last page."""
        self._shown.set()


class Listener(Generic[_T]):
    """Wait for the callback of a sign-in.

    Args:
        port: The port.
        path: The path of the callback; every other is answered by 404.
        parse: Returns what a query brings, or None if it does not belong to the sign-in: that is answered by 400, and
            the right one is waited for.

    Attributes:
        callbacks: Receives what ``parse`` returns.
    """

    def __init__(self, port: int, path: str, parse: Callable[[str], _T | None]) -> None:
        self.port = port
        self.path = path
        self.parse = parse
        self.callbacks: queue.SimpleQueue[_T] = queue.SimpleQueue()
        self.outcome = Outcome()

    @contextmanager
    def listening(self) -> Iterator[Outcome]:
        """Listen on both loopback addresses: otherwise another user's program could take one and get the callback.

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
                        "Stop the program that uses the port; or register another redirect URI with the client, and "
                        "give it as --redirect-uri",
                    ) from error
                stack.callback(server.server_close)
                thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
                thread.start()
                stack.callback(thread.join)
                stack.callback(server.shutdown)
            stack.callback(self.outcome.end)
            yield self.outcome


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # On Windows, this would listen on a port that another program has.
    allow_reuse_address = not platform.IS_WINDOWS

    def __init__(self, family: socket.AddressFamily, host: str, listener: Listener[Any]) -> None:
        self.address_family = family
        self.listener = listener
        super().__init__((host, listener.port), _Handler)

    def server_bind(self) -> None:
        platform.reserve_port(self.socket)
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Without HTTPServer's look-up of this machine's name, which hangs where no name server answers.
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a traceback of the handler could show the callback."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "zoho-keystore", ""
    timeout = 10

    def log_message(self, *_: object) -> None:
        """Log nothing: the request line holds the code."""

    def send_error(self, code: int, *_: object, **__: object) -> None:
        """Answer what is not understood with a static page: the base class repeats what was sent."""
        self._answer(code, "Error", "This request is not understood.")

    def do_GET(self) -> None:
        listener = self.server.listener
        if self.headers.get("Host", "").lower() not in _hosts(listener.port):
            # A page of another site whose name was pointed at this machine (DNS rebinding) sends that name.
            return self._answer(HTTPStatus.BAD_REQUEST, "Error", "This address is not served here.")
        # Not self.path, in which two slashes at the start have become one.
        path, _, query = self.requestline.split()[1].partition("?")
        if path in _PAGES and not query:
            self._answer(HTTPStatus.OK, *_PAGES[path])
            return listener.outcome.shown()
        if path != listener.path:
            return self._answer(HTTPStatus.NOT_FOUND, "Error", "There is nothing here.")
        callback = listener.parse(query)
        if callback is None:
            return self._answer(
                HTTPStatus.BAD_REQUEST, "Error", "This is not the answer to the running sign-in, which goes on waiting."
            )
        listener.outcome.expect()
        listener.callbacks.put(callback)
        # To a clean address, so that the code does not stay in the browser's history.
        return self._answer(HTTPStatus.SEE_OTHER, "", "", location=listener.outcome.page())

    def _answer(self, status: int, title: str, text: str, *, location: str = "") -> None:
        head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        page = f"{head}<h1>{title}</h1><p>{text}</p></html>\n".encode()
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(page)))
        with suppress(OSError):  # The browser may have gone.
            self.end_headers()
            self.wfile.write(page)


def _hosts(port: int) -> set[str]:
    hosts = {f"[{host}]" if ":" in host else host for host in LOOPBACK_HOSTS}
    # A browser leaves out the port that is HTTP's own.
    return {f"{host}:{port}" for host in hosts} | (hosts if port == _HTTP_PORT else set())
