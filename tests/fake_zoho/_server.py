"""HTTP on loopback: reads requests with care, and sends replies rightly or as wrongly as they ask for."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    from fake_zoho._messages import Reply

_MAX_BODY_BYTES = 65_536


class Received(NamedTuple):
    """A request as it came over HTTP; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class Listener(ThreadingHTTPServer):
    """One address and port, with a daemon thread a connection.

    Args:
        address: A loopback address and the port; port 0 takes a free one.
        answer: Called for each request, in its thread; raises ValueError or RecursionError for a malformed one.
    """

    request_queue_size = 128  # socketserver's 5 stalls a burst of processes

    def __init__(self, address: tuple[str, int], answer: Callable[[Received], Reply]) -> None:
        self.answer = answer
        self.closing = threading.Event()  # set when no client waits for answers any more
        self._connections: set[Any] = set()
        self._changed = threading.Condition()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)
        # serve_forever looks for a shutdown once per interval: every test would pay its default of 0.5 s.
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Serve in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more, and cut what is still open."""
        self.closing.set()
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which can hang where no name server answers."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection, so that the end can cut it."""
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def server_close(self) -> None:
        """Cut kept connections too: they would answer after the end, and be left to the garbage collector unclosed."""
        super().server_close()
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report defects of the fake server, not clients that hung up."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Listener
    protocol_version = default_request_version = "HTTP/1.1"  # else nonsense is taken for HTTP/0.9, which has no status
    server_version, sys_version = "fake-zoho", ""
    timeout = 60  # seconds a connection may be idle, or its body overdue
    disable_nagle_algorithm = True  # or each answer on a kept connection waits 40 ms for an acknowledgement
    error_content_type = "application/json"
    error_message_format = '{"code": "BAD_REQUEST", "http_status": %(code)d}'

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        try:
            reply = self.server.answer(self._received())
        except (ValueError, RecursionError):
            self.send_error(400)  # and closes the connection: an unread body would be taken for the next request
            return
        self._send(reply)

    def _send(self, reply: Reply) -> None:
        if reply.ending == "closed":
            self.close_connection = True
            return
        content = reply.content
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        for name, value in reply.headers:
            self.send_header(name, value)
        if reply.repeat > 1:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if reply.ending == "cut":
            self.close_connection = True
            content = content[: len(content) // 2]
        if reply.seconds_a_byte:
            for byte in content:
                self.wfile.write(bytes([byte]))
                self.server.closing.wait(reply.seconds_a_byte)
            return
        for _ in range(reply.repeat):
            self.wfile.write(content)

    def _received(self) -> Received:
        lengths = self.headers.get_all("Content-Length", ["0"])
        if len(lengths) > 1 or not re.fullmatch("[0-9]{1,9}", lengths[0]) or "Transfer-Encoding" in self.headers:
            raise ValueError("a body of unknown length")
        if (length := int(lengths[0])) > _MAX_BODY_BYTES:
            raise ValueError("too long a body")
        if len(body := self.rfile.read(length)) < length:
            raise ValueError("half a body")
        target = urlsplit(self.path)
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        return Received(self.command, target.path, target.query, headers, body)

    do_GET = do_POST = _serve  # noqa: N815 -- http.server's names
