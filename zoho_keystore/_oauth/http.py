"""Requests to Zoho: bounded in time and size, to the server that was named and to no other.

Redirects are not followed, since a redirected POST would carry the client secret elsewhere; no credentials of
``~/.netrc`` are added; problems are told by the server's name, never by what was sent. They are returned, not raised:
the callers' frames hold secrets (see :mod:`zoho_keystore.errors`).
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from zoho_keystore._timeout import run_with_timeout
from zoho_keystore.errors import ConfigurationError, KeystoreError, ZohoUnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import requests

#: For how long a request takes at most, its one retry included, in seconds.
TIMEOUT_S = 8.0

#: The same for a request that works once and has no retry: when its reply is lost, so is what was issued.
ONCE_TIMEOUT_S = 30.0

#: Replies of Zoho have some hundred bytes.
MAX_REPLY_BYTES = 256 * 1024

_CONNECT_TIMEOUT_S = 5.0
_RETRY_PAUSE_S = 0.5

#: Small, because the first kilobyte of a compressed reply may stand for a thousand.
_CHUNK_BYTES = 1024


class Reply(NamedTuple):
    """A reply in JSON.

    Attributes:
        status: The HTTP status. Zoho reports errors with 200 too, so the payload is looked at first.
        payload: The JSON object; not empty.
    """

    status: int
    payload: Mapping[str, Any]

    def __repr__(self) -> str:
        """Leave out the payload, which may hold tokens."""
        return f"<Reply {self.status}>"


def post_form(url: str, form: Mapping[str, str], *, once: bool = False) -> Reply | KeystoreError:
    """Send a form, and return the JSON object that comes back, or why there is none.

    Args:
        url: The address.
        form: The fields.
        once: Whether the form works once, so that it must not be sent again after a missing or broken reply.

    Returns:
        The reply; a ZohoUnreachableError; or a ConfigurationError if the library for HTTP is not installed.
    """
    return _ask(url, lambda session, options: session.post(url, data=dict(form), **options), once=once)


def get_json(url: str, access_token: str) -> Reply | KeystoreError:
    """Ask an API with an access token, and return what :func:`post_form` does."""
    headers = {"Authorization": f"Zoho-oauthtoken {access_token}"}
    return _ask(url, lambda session, options: session.get(url, headers=headers, **options), once=False)


def library() -> Any:
    """Return the library for HTTP, imported only when the network is needed.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import requests  # noqa: PLC0415 - 60 ms, and only signing in and refreshing need the network
    except ImportError:
        raise ConfigurationError(
            "the library requests is not installed", 'Install it with: pip install "zoho_keystore[oauth]"'
        ) from None
    return requests


def _ask(
    url: str, send: Callable[[requests.Session, dict[str, Any]], requests.Response], *, once: bool
) -> Reply | KeystoreError:
    try:
        requests = library()
    except ConfigurationError as error:
        return error
    left_s = ONCE_TIMEOUT_S if once else TIMEOUT_S
    deadline_s = time.monotonic() + left_s
    reply, problem = _attempt(requests, send, left_s)
    left_s = deadline_s - time.monotonic() - _RETRY_PAUSE_S
    if reply is None and not once and left_s > 0:
        time.sleep(_RETRY_PAUSE_S)
        reply, problem = _attempt(requests, send, left_s)
    if reply is not None:
        return reply
    return ZohoUnreachableError(
        f"{urlsplit(url).netloc} {problem}", "Check the network and the data centre, and try again later"
    )


def _attempt(
    requests: Any, send: Callable[[requests.Session, dict[str, Any]], requests.Response], timeout_s: float
) -> tuple[Reply | None, str]:
    """Return the reply, or what is wrong with it as a clause."""
    options = {
        "timeout": (min(_CONNECT_TIMEOUT_S, timeout_s), timeout_s),
        "allow_redirects": False,
        "stream": True,
        # Only servers of this machine are asked by http; a proxy elsewhere would get the secrets in plain text.
        "proxies": {"http": ""},
    }

    def attempt() -> tuple[Reply | None, str]:
        with requests.Session() as session:
            # An auth of our own: without one, requests looks into ~/.netrc.
            session.auth = _keep
            with send(session, options) as response:
                return _parsed(response)

    try:
        # The timeouts of requests are those of a single read: a name server or a slow reply could take hours.
        return run_with_timeout(timeout_s, attempt)
    except requests.exceptions.SSLError:
        return None, "has no certificate that this machine trusts"
    except (requests.exceptions.Timeout, TimeoutError):
        return None, "did not answer in time"
    except requests.exceptions.ConnectionError:
        return None, "cannot be reached"
    except (requests.exceptions.RequestException, OSError, ValueError) as error:
        return None, f"gave a reply that is not understood ({type(error).__name__})"


def _parsed(response: requests.Response) -> tuple[Reply | None, str]:
    content = b""
    for chunk in response.iter_content(_CHUNK_BYTES):
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            return None, f"sent more than {MAX_REPLY_BYTES // 1024} KiB"
    status = response.status_code
    is_an_answer = status < HTTPStatus.MULTIPLE_CHOICES or (
        HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    )
    try:
        payload = json.loads(content) if is_an_answer else None
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict) or not payload:
        return None, f"gave no answer of Zoho's (HTTP {status})"
    return Reply(status, payload), ""


def _keep(request: Any) -> Any:
    return request
