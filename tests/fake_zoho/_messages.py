"""Requests as they are recorded, replies, and faults in place of replies."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

THROTTLED = "You have made too many requests continuously. Please try again after some time."
_MAX_FIELDS = 100


@dataclass(frozen=True)
class Request:
    """A request as it arrived. Header names are in lower case; `at` is the fake server's time in seconds."""

    kind: str
    location: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def target(self) -> str:
        """The path with the query: what servers and proxies write to their logs."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def form(self) -> dict[str, str]:
        """The body's form fields. A malformed form raises ValueError."""
        return parse_form(self.body.decode())

    @property
    def parameters(self) -> dict[str, str]:
        """The query's parameters."""
        return parse_form(self.query)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What is sent back.

    Attributes:
        content: Bytes and text are sent as they are, everything else as JSON.
        status: The HTTP status.
        content_type: The header of that name.
        headers: More headers.
        repeat: How often the content is sent; more than once is sent without a Content-Length.
        seconds_a_byte: How slowly the body is sent.
        ending: "closed" sends nothing and closes the connection; "cut" closes it after half of the body.
    """

    content: Any = b""
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    repeat: int = 1
    seconds_a_byte: float = 0
    ending: Literal["", "closed", "cut"] = ""


@dataclass(frozen=True)
class Fault:
    """A wrong reply to one request.

    Attributes:
        reply: The reply; None is the right one.
        wait_s: Seconds to wait before anything else; the end of the fake server ends the wait.
        carried_out: Carry the request out before the wrong reply is sent: its tokens are issued and lost.
    """

    reply: Reply | None
    wait_s: float = 0
    carried_out: bool = False

    @classmethod
    def json(cls, content: Any, status: int = 200) -> Self:
        """Answer with this as JSON: `{}`, for example."""
        return cls(Reply(content=content, status=status))

    @classmethod
    def error(cls, error: str, status: int = 200, description: str = "") -> Self:
        """Answer with an OAuth error. "Access Denied" gets Zoho's description of a throttle by itself."""
        return cls(error_reply(error, status, description))

    @classmethod
    def crm_error(cls, code: str, status: int = 401) -> Self:
        """Answer with an error of the CRM."""
        return cls(crm_error(code, status))

    @classmethod
    def html(cls, status: int = 502) -> Self:
        """Answer with a gateway's page."""
        return cls(html_page(f"<html><body><h1>{status}</h1></body></html>", status))

    @classmethod
    def text(cls, content: str | bytes = "", status: int = 200) -> Self:
        """Answer with this as it is and call it JSON: nothing, or what is not JSON."""
        return cls(Reply(content=content, status=status))

    @classmethod
    def huge(cls, megabytes: int = 64, *, compressed: bool = False) -> Self:
        """Answer without end or length; `compressed` as a small gzip body that expands to this size."""
        if not compressed:
            return cls(Reply(content=b" " * 65_536, repeat=megabytes * 16))
        packed = gzip.compress(b" " * (megabytes << 20), 1)
        return cls(Reply(content=packed, headers=(("Content-Encoding", "gzip"),)))

    @classmethod
    def redirect(cls, url: str, status: int = 307) -> Self:
        """Redirect elsewhere; with 307 and 308 a client that follows sends its body there."""
        return cls(Reply(status=status, headers=(("Location", url),)))

    @classmethod
    def slow(cls, seconds: float) -> Self:
        """Answer rightly, after this time."""
        return cls(None, wait_s=seconds)

    @classmethod
    def hang(cls) -> Self:
        """Do not answer before the fake server ends; the request is not carried out."""
        return cls(Reply(ending="closed"), wait_s=86_400)

    @classmethod
    def drip(cls, seconds_a_byte: float = 0.05) -> Self:
        """Answer an error byte by byte: no single read takes long, all of them together do."""
        return cls(replace(error_reply("invalid_code", 200), seconds_a_byte=seconds_a_byte))

    @classmethod
    def closed(cls) -> Self:
        """Close the connection without an answer; the request is not carried out."""
        return cls(Reply(ending="closed"))

    @classmethod
    def cut(cls) -> Self:
        """Close the connection after half of a body; the request is not carried out."""
        return cls(Reply(content={"access_token": "1000.cut"}, ending="cut"))

    @classmethod
    def lost(cls) -> Self:
        """Carry the request out, then close the connection without an answer."""
        return cls(Reply(ending="closed"), carried_out=True)


def error_reply(error: str, status: int, description: str = "", **more: str) -> Reply:
    """Return an OAuth error as Zoho words it."""
    content = {"error": error, **more}
    if error == "Access Denied":
        content |= {"error_description": THROTTLED, "status": "failure"}
    if description:
        content["error_description"] = description
    return Reply(content=content, status=status)


def crm_error(code: str, status: int) -> Reply:
    """Return an error as Zoho's CRM words it."""
    message = code.replace("_", " ").lower()
    return Reply(content={"code": code, "details": {}, "message": message, "status": "error"}, status=status)


def html_page(content: str, status: int = 200) -> Reply:
    """Return a page for a browser."""
    return Reply(content=content, status=status, content_type="text/html; charset=utf-8")


def parse_form(text: str) -> dict[str, str]:
    """Return the fields of a form or query; the last of doubled ones counts."""
    return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
