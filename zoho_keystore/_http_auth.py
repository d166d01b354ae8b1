"""Access tokens for requests and httpx: sent to Zoho's hosts only, and renewed when Zoho refuses them."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zoho_keystore._access import fresh_record, refresh
from zoho_keystore._oauth.data_centres import API_HOSTS, is_secure
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Sequence

    import httpx
    import requests
    from requests.auth import AuthBase

    from zoho_keystore._keystore import Keystore

#: Codes of a 401 that mean the access token; OAUTH_SCOPE_MISMATCH comes with 401 too, and no refresh helps there.
_TOKEN_CODES = frozenset(("INVALID_TOKEN", "INVALID_OAUTHTOKEN", "AUTHENTICATION_FAILURE"))


class _Tokens:
    """The access tokens of one record, for one client."""

    def __init__(self, keystore: Keystore, id: str, hosts: Sequence[str]) -> None:
        self._keystore = keystore
        self._id = id
        self._hosts = frozenset(host.lower() for host in hosts)

    def header(self, url: str) -> str:
        """Return the header for a request.

        Raises:
            ConfigurationError: The token must not be sent there.
        """
        if not self.allows(url):
            host = urlsplit(url).hostname
            raise ConfigurationError(
                f"an access token is sent by https and to Zoho's API servers only, and not to {host}",
                f"If the host is meant to get it, give hosts=[{host!r}]",
            )
        return _header(fresh_record(self._keystore, self._id).access_token)

    def allows(self, url: str) -> bool:
        """Return whether a token may be sent to an address."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        return is_secure(parts) and (host in self._hosts or (host in API_HOSTS and parts.scheme == "https"))

    def renewed_header(self, sent: str) -> str:
        """Return the header after Zoho has refused one: with the stored token if that is another, else a new one."""
        stored = self._keystore.require(self._id)
        if stored.access_token and _header(stored.access_token) != sent:
            return _header(stored.access_token)
        return _header(refresh(self._keystore, self._id).access_token)


def _header(access_token: str | None) -> str:
    return f"Zoho-oauthtoken {access_token}"


def _means_token(status: int, content: bytes) -> bool:
    if status != HTTPStatus.UNAUTHORIZED:
        return False
    try:
        payload = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(payload, dict) and payload.get("code") in _TOKEN_CODES


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
            request.headers["Authorization"] = tokens.header(request.url or "")
            body: Any = request.body
            hooks: Any = request  # Its methods have no types.
            position = body.tell() if hasattr(body, "seek") and hasattr(body, "tell") else None

            def renew(response: requests.Response, **options: Any) -> requests.Response:
                sent = response.request.headers.get("Authorization", "")
                can_repeat = isinstance(body, str | bytes | None) or position is not None
                # A redirect may have led elsewhere; requests takes the header away then.
                if response.history or not sent or not can_repeat or not tokens.allows(response.url):
                    return response
                if not _means_token(response.status_code, response.content):
                    return response
                if position is not None:
                    body.seek(position)
                response.close()
                repeated = response.request.copy()
                repeated.headers["Authorization"] = tokens.renewed_header(sent)
                repeated.hooks["response"].remove(renew)
                connection: Any = vars(response)["connection"]
                answer: requests.Response = connection.send(repeated, **options)
                answer.history.append(response)
                answer.request = repeated
                return answer

            hooks.register_hook("response", renew)
            return request

    return KeystoreAuth()


def httpx_auth(keystore: Keystore, id: str, hosts: Sequence[str]) -> httpx.Auth:
    """Return an auth object for httpx."""
    try:
        import httpx  # noqa: PLC0415 - an optional dependency
    except ImportError:
        raise ConfigurationError("the library httpx is not installed", "Install it with: pip install httpx") from None
    tokens = _Tokens(keystore, id, hosts)

    def needs_renewal(request: httpx.Request, response: httpx.Response, content: bytes) -> bool:
        can_repeat = isinstance(request.stream, httpx.ByteStream)
        return can_repeat and response.request.url == request.url and _means_token(response.status_code, content)

    class KeystoreAuth(httpx.Auth):
        def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
            sent = request.headers["Authorization"] = tokens.header(str(request.url))
            response = yield request
            if response.status_code == HTTPStatus.UNAUTHORIZED and needs_renewal(request, response, response.read()):
                request.headers["Authorization"] = tokens.renewed_header(sent)
                yield request

        async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
            # The store waits for locks, disks and Zoho, which must not stop the event loop.
            from anyio import to_thread  # noqa: PLC0415 - httpx depends on it

            sent = request.headers["Authorization"] = await to_thread.run_sync(tokens.header, str(request.url))
            response = yield request
            if response.status_code == HTTPStatus.UNAUTHORIZED and needs_renewal(
                request, response, await response.aread()
            ):
                request.headers["Authorization"] = await to_thread.run_sync(tokens.renewed_header, sent)
                yield request

    return KeystoreAuth()
