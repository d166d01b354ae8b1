"""Access tokens for requests and httpx: sent to Zoho's hosts only, and renewed when Zoho refuses them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zoho_keystore._access import fresh_record, is_new, is_usable, refresh
from zoho_keystore._oauth.data_centres import API_HOSTS, LOOPBACK_HOSTS
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    import httpx
    import requests
    from requests.auth import AuthBase

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._records import TokenRecord

#: Codes of a 401 that mean the access token; OAUTH_SCOPE_MISMATCH comes with 401 too, and no refresh helps there.
_TOKEN_CODES = frozenset(("INVALID_TOKEN", "INVALID_OAUTHTOKEN", "AUTHENTICATION_FAILURE"))

#: The start of the header's value.
_SCHEME = "Zoho-oauthtoken "


class _Tokens:
    """The access tokens of one record, for requests to some hosts."""

    def __init__(self, keystore: Keystore, id: str, hosts: Sequence[str]) -> None:
        if isinstance(hosts, str):
            raise ConfigurationError("hosts is a text, and not a list of texts", f"Give hosts=[{hosts!r}]")
        self._keystore = keystore
        self._id = id
        self._hosts = frozenset(host.strip("[]").lower() for host in hosts)

    # These get the request, and not its headers, since the repr of requests' headers shows the token in tracebacks.

    def authorize(self, request: requests.PreparedRequest | httpx.Request, scheme: str, host: str) -> None:
        """Set the header of a request to a host.

        Raises:
            ConfigurationError: The token must not be sent there.
            KeystoreError: There is no token.
        """
        host = host.lower()
        is_zoho = scheme == "https" and host in API_HOSTS
        is_named = host in self._hosts and (scheme == "https" or (scheme == "http" and host in LOOPBACK_HOSTS))
        if not is_zoho and not is_named:
            raise ConfigurationError(
                f"an access token is sent to Zoho's API servers by https, and not to {host!r} by {scheme}",
                f"If the host is meant to get it, give hosts=[{host!r}], and use https, except on this machine",
            )
        request.headers["Authorization"] = _header(fresh_record(self._keystore, self._id))

    def renew(self, request: requests.PreparedRequest | httpx.Request) -> bool:
        """Replace the header that Zoho has refused; return False when there is none that is worth a try.

        The new one has the stored access token, if another process has renewed it meanwhile; else a new one. Where Zoho
        refuses a token that is new, the next one would be refused, too: the request goes to the wrong data centre, for
        example.

        Raises:
            KeystoreError: The access token cannot be renewed.
        """
        stored = self._keystore.require(self._id)
        now_ms = self._keystore.now_ms()
        if _header(stored) == request.headers["Authorization"] or not is_usable(stored, now_ms):
            if is_new(stored, now_ms):
                return False
            stored = refresh(self._keystore, self._id, seen=stored, asks_refused=False)
        request.headers["Authorization"] = _header(stored)
        return True


def _header(record: TokenRecord) -> str:
    return f"{_SCHEME}{record.access_token}"


def _means_token(content: bytes) -> bool:
    """Return whether the body of a 401 means the access token."""
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        return False
    code = payload.get("code") if isinstance(payload, dict) else None
    return isinstance(code, str) and code in _TOKEN_CODES


def requests_auth(keystore: Keystore, id: str, hosts: Sequence[str]) -> AuthBase:
    """Return an auth object for requests."""
    try:
        from requests.auth import AuthBase  # noqa: PLC0415 - an extra
    except ImportError:
        raise ConfigurationError(
            "the library requests is not installed", 'Install it with: pip install "zoho_keystore[oauth]"'
        ) from None
    tokens = _Tokens(keystore, id, hosts)

    class KeystoreAuth(AuthBase):
        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            # requests has taken the address apart already, as it will connect to it.
            parts = urlsplit(request.url or "")
            tokens.authorize(request, parts.scheme, parts.hostname or "")
            prepared: Any = request  # Some of its attributes have no types.
            body, position = prepared.body, prepared._body_position  # noqa: SLF001 - as requests' own digest auth
            can_repeat = body is None or isinstance(body, str | bytes) or isinstance(position, int)

            def renew(response: requests.Response, **options: Any) -> requests.Response:
                # When a redirect leads elsewhere, requests takes the header away, and may put one of ~/.netrc there.
                has_header = response.request.headers.get("Authorization", "").startswith(_SCHEME)
                if response.status_code != HTTPStatus.UNAUTHORIZED or not has_header or not can_repeat:
                    return response
                if not _means_token(response.content):
                    return response
                repeated = response.request.copy()
                if not tokens.renew(repeated):
                    return response
                if isinstance(position, int):
                    body.seek(position)
                response.close()
                connection: Any = vars(response)["connection"]
                answer: requests.Response = connection.send(repeated, **options)
                answer.history.append(response)
                answer.request = repeated
                return answer

            prepared.register_hook("response", renew)
            return request

    return KeystoreAuth()


def httpx_auth(keystore: Keystore, id: str, hosts: Sequence[str]) -> httpx.Auth:
    """Return an auth object for httpx."""
    try:
        import httpx  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise ConfigurationError("the library httpx is not installed", "Install it with: pip install httpx") from None
    tokens = _Tokens(keystore, id, hosts)

    def may_be_renewed(request: httpx.Request, response: httpx.Response) -> bool:
        # After a redirect, the response is that of another request.
        return (
            response.status_code == HTTPStatus.UNAUTHORIZED
            and response.request is request
            and isinstance(request.stream, httpx.ByteStream)
        )

    class KeystoreAuth(httpx.Auth):
        def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            tokens.authorize(request, request.url.scheme, request.url.host)
            response = yield request
            if may_be_renewed(request, response) and _means_token(response.read()) and tokens.renew(request):
                yield request

        async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
            # The store waits for locks, disks and Zoho, which must not stop the event loop.
            from anyio.to_thread import run_sync  # noqa: PLC0415 - httpx depends on it

            await run_sync(tokens.authorize, request, request.url.scheme, request.url.host)
            response = yield request
            means_token = may_be_renewed(request, response) and _means_token(await response.aread())
            if means_token and await run_sync(tokens.renew, request):
                yield request

    return KeystoreAuth()
