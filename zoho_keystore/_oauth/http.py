"""Requests to Zoho: bounded in time and size, to the server that was named and to no other.

Redirects are not followed, since a redirected POST would carry the client secret elsewhere; no credentials of
``~/.netrc`` are added; error messages name the server and never what was sent.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from zoho_keystore.errors import ConfigurationError, ZohoUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 8.0

#: For how long a request whose reply is no answer of Zoho's is tried once more, in seconds.
RETRY_WITHIN_S = 8.0
_RETRY_PAUSE_S = 0.5

#: Replies of Zoho have some hundred bytes.
MAX_REPLY_BYTES = 256 * 1024


class Reply(NamedTuple):
    """A reply in JSON.

    Attributes:
        status: The HTTP status. Zoho reports errors with 200 too, so the payload is looked at first.
        payload: The JSON object.
    """

    status: int
    payload: Mapping[str, Any]

    def __repr__(self) -> str:
        """Leave out the payload, which may hold tokens."""
        return f"<Reply {self.status}>"


def post_form(url: str, form: Mapping[str, str], *, retry: bool = True) -> Reply:
    """Send a form, and return the JSON object that comes back.

    Args:
        url: Where to.
        form: What.
        retry: Whether to send it once more after no or a broken reply; not what works only once.

    Raises:
        ZohoUnreachableError: No reply, or none that is JSON.
        ConfigurationError: The library for HTTP is not installed.
    """
    return _with_retry(url, lambda session: session.post(url, data=dict(form), **_OPTIONS), retry=retry)


def get_json(url: str, access_token: str) -> Reply:
    """Ask an API with an access token, and return the JSON object that comes back; with one retry."""
    headers = {"Authorization": f"Zoho-oauthtoken {access_token}"}
    return _with_retry(url, lambda session: session.get(url, headers=headers, **_OPTIONS), retry=True)


_OPTIONS: dict[str, Any] = {
    "timeout": (CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
    "allow_redirects": False,
    "stream": True,
}


def _with_retry(url: str, send: Callable[[requests.Session], requests.Response], *, retry: bool) -> Reply:
    deadline_s = time.monotonic() + RETRY_WITHIN_S
    reply, problem = _attempt(send)
    if reply is None and retry and time.monotonic() < deadline_s:
        time.sleep(_RETRY_PAUSE_S)
        reply, problem = _attempt(send)
    if reply is None:
        # Raised here, where no frame holds the form (see zoho_keystore.errors).
        del send
        raise ZohoUnreachableError(
            f"{urlsplit(url).netloc} {problem}", "Check the network and the data centre, and try again later"
        )
    return reply


def _attempt(send: Callable[[requests.Session], requests.Response]) -> tuple[Reply | None, str]:
    """Return the reply, or what is wrong with it as a clause."""
    requests = _library()
    try:
        with requests.Session() as session:
            # An auth of our own: without one, requests looks into ~/.netrc.
            session.auth = _keep
            with send(session) as response:
                return _parsed(response)
    except requests.exceptions.SSLError:
        return None, "has no certificate that this machine trusts"
    except requests.exceptions.Timeout:
        return None, "did not answer in time"
    except requests.exceptions.ConnectionError:
        return None, "cannot be reached"
    except (requests.exceptions.RequestException, OSError, ValueError) as error:
        return None, f"gave a reply that is not understood ({type(error).__name__})"


def _parsed(response: requests.Response) -> tuple[Reply | None, str]:
    content = b""
    for chunk in response.iter_content(16 * 1024):
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            return None, f"sent more than {MAX_REPLY_BYTES // 1024} KiB"
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict) or not payload or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return None, f"gave no answer of Zoho's (HTTP {response.status_code})"
    return Reply(response.status_code, payload), ""


def _keep(request: Any) -> Any:
    return request


def _library() -> Any:
    try:
        import requests  # noqa: PLC0415 - 60 ms, and only signing in and refreshing need the network
    except ImportError:
        raise ConfigurationError(
            "the library requests is not installed", 'Install it with: pip install "zoho_keystore[oauth]"'
        ) from None
    return requests
