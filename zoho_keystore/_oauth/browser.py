"""Sign-in by browser: the authorization request with PKCE, and its callback (RFC 6749, RFC 7636, RFC 8252)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import queue
import re
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from zoho_keystore import _platform as platform
from zoho_keystore._oauth.data_centres import DATA_CENTRES, LOOPBACK_HOSTS, DataCentre, by_accounts_url
from zoho_keystore._oauth.listener import PAGE_PATHS, Listener
from zoho_keystore.errors import ConfigurationError, SignInError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The redirect URI to register with the client, unless another one is given.
DEFAULT_REDIRECT_URI = "http://localhost:18734/callback"

_MAX_PASTED_CHARACTERS = 8_192

#: How often to look for a pasted address, in seconds.
_PASTE_POLL_S = 0.1

#: They would take the terminal, and a sign-in page needs scripts.
_TEXT_BROWSERS = {"browsh", "elinks", "links", "links2", "lynx", "w3m", "www-browser"}
_BROWSERS = ("xdg-open", "x-www-browser", "firefox", "chromium", "google-chrome")

#: Paths that a browser sends as they are, so that they can be compared with what it sends.
_AS_SENT = re.compile(r"[\w./~-]*", re.ASCII)

_ERROR_NAME = re.compile(r"[a-z_]{1,40}")


class User(Protocol):
    """The user who signs in."""

    def open(self, url: str) -> None:
        """Show an address, and open it in a browser if there is one; the callback can come from now on."""
        ...

    def pasted(self) -> str:
        """Return the line that was pasted since the last call, without waiting; empty if there is none."""
        ...

    def tell(self, text: str) -> None:
        """Show a line."""
        ...


@dataclass(frozen=True)
class Callback:
    """What Zoho's redirect brings, after its state was checked.

    Attributes:
        code: The authorization code; empty when there is an error.
        error: The name of Zoho's error; empty when there is a code.
        accounts_server: The accounts server that it names; empty if none. It can be forged.
        location: The location that it names; empty if none.
    """

    code: str = field(default="", repr=False)
    error: str = ""
    accounts_server: str = ""
    location: str = ""


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

        A wrong or missing state, a doubled parameter, or neither code nor error: another program or page has sent it.
        """
        pairs = parse_qsl(query, keep_blank_values=True)
        parameters = dict(pairs)
        if len(parameters) != len(pairs):
            return None
        if not hmac.compare_digest(parameters.get("state", "").encode(), self.state.encode()):
            return None
        accounts_server = parameters.get("accounts-server", "").rstrip("/").lower()
        location = parameters.get("location", "").lower()
        if error := parameters.get("error"):
            return Callback("", error, accounts_server, location)
        code = parameters.get("code")
        return Callback(code, "", accounts_server, location) if code else None

    def pasted(self, text: str) -> Callback | None:
        """Return what a pasted callback address brings; None when it does not belong to this request."""
        if len(text) > _MAX_PASTED_CHARACTERS:
            return None
        try:
            return self.callback(urlsplit(text.strip()).query)
        except ValueError:
            return None


def exchange_centre(callback: Callback, centre: DataCentre) -> DataCentre:
    """Return the data centre to exchange the code at: the user's own, which Zoho names in the callback.

    Args:
        callback: The callback.
        centre: Where the sign-in began. If the user has named it by its address, it is the only one.

    Raises:
        SignInError: The callback names a server that is not Zoho's, or contradicts itself: nothing may be sent there.
    """
    named = centre
    if callback.accounts_server and callback.accounts_server != centre.accounts_url:
        found = by_accounts_url(callback.accounts_server) if centre.location else None
        if found is None:
            raise SignInError(
                "the callback names an accounts server that is not Zoho's; nothing was sent there",
                "Sign in again. If it comes back, find out which program sends such callbacks",
            )
        named = found
    if not centre.location or not callback.location:
        return named
    if not callback.accounts_server:
        return DATA_CENTRES.get(callback.location, centre)
    if callback.location != named.location:
        raise SignInError(
            "the callback names a location and an accounts server that do not belong together; nothing was sent",
            "Sign in again. If it comes back, find out which program sends such callbacks",
        )
    return named


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
            and parts.username is None
            and bool(parts.port)
            and _AS_SENT.fullmatch(parts.path) is not None
            and not parts.query
            and not parts.fragment
            and parts.path not in PAGE_PATHS
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigurationError(
            "the redirect URI, of --redirect-uri or of the token, is not one of this machine at which it can answer",
            f"Register one like {DEFAULT_REDIRECT_URI} with the client (http, localhost, a port and a path), and give "
            "that as --redirect-uri",
        )


def open_browser(url: str) -> bool:
    """Start the user's browser; return False where there is none, or only one that takes the terminal.

    The variable ``BROWSER`` names the browser, or several, separated by colons (on Windows by semicolons), of which the
    first that starts is used.
    """
    for command in _browser_commands(url):
        if os.path.basename(command[0]) in _TEXT_BROWSERS:
            continue
        try:
            # In a session of its own and without our descriptors: what it prints is not ours, nor is its Ctrl-C.
            process = subprocess.Popen(  # noqa: S603 - the user names the program
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError):
            continue
        process.returncode = 0  # Or Popen warns: the browser may outlive this program.
        return True
    return False


def _browser_commands(url: str) -> Iterator[list[str]]:
    for entry in filter(None, os.environ.get("BROWSER", "").split(os.pathsep)):
        try:
            words = platform.split(entry.removesuffix("&"))
        except ValueError:
            continue
        if words:
            yield [word.replace("%s", url) for word in words] if "%s" in entry else [*words, url]
    if os.environ.get("BROWSER"):
        return
    if sys.platform == "darwin":
        yield ["open", url]
    elif platform.IS_WINDOWS:
        yield ["rundll32", "url.dll,FileProtocolHandler", url]
    elif os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        yield from ([name, url] for name in _BROWSERS)


def sign_in(
    request: AuthorizationRequest, exchange: Callable[[Callback], None], *, timeout_s: float, user: User
) -> None:
    """Wait for the callback of a request, or for its pasted address, and exchange its code.

    Args:
        request: The request.
        exchange: Exchanges the code and saves the tokens.
        timeout_s: For how many seconds to wait for the user.
        user: The user.

    Raises:
        SignInError: The user refused, or nothing came in time.
        ConfigurationError: The port is taken.
        KeystoreError: As ``exchange``.
    """
    parts = urlsplit(request.redirect_uri)
    listener: Listener[Callback] = Listener(parts.port or 0, parts.path or "/", request.callback)
    with listener.listening() as outcome:
        user.open(request.url)
        callback = _awaited(request, listener.callbacks, time.monotonic() + timeout_s, user)
        if callback is None:
            raise SignInError(
                f"no sign-in within {timeout_s:g} s",
                "If the browser showed an error page of Zoho's: check the client id, the data centre (--dc), the "
                f"scopes, and that {request.redirect_uri} is registered with the client. Then sign in again",
            )
        if callback.error:
            name = callback.error if _ERROR_NAME.fullmatch(callback.error) else "unknown error"
            why = "was refused on Zoho's page" if name == "access_denied" else f"has failed at Zoho ({name})"
            raise SignInError(f"the sign-in {why}; nothing was kept", "Sign in again")
        exchange(callback)
        outcome.succeed()


def _awaited(
    request: AuthorizationRequest, callbacks: queue.SimpleQueue[Callback], deadline_s: float, user: User
) -> Callback | None:
    while (left_s := deadline_s - time.monotonic()) > 0:
        try:
            return callbacks.get(timeout=min(left_s, _PASTE_POLL_S))
        except queue.Empty:
            text = user.pasted().strip()
        if text:
            if callback := request.pasted(text):
                return callback
            user.tell("This is not the address of the running sign-in's callback.")
    return None
