"""The authorization request, its callback, and the web server that receives it: attacked over real sockets."""

from __future__ import annotations

import base64
import errno
import hashlib
import http.client
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from zoho_keystore._oauth import listener
from zoho_keystore._oauth.browser import (
    DEFAULT_REDIRECT_URI,
    AuthorizationRequest,
    Callback,
    exchange_centre,
    open_browser,
    require_redirect_uri,
    sign_in,
)
from zoho_keystore._oauth.data_centres import DATA_CENTRES, DataCentre
from zoho_keystore._oauth.listener import Listener
from zoho_keystore.errors import ConfigurationError, SignInError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EU, US = DATA_CENTRES["eu"], DATA_CENTRES["us"]
NAMED = DataCentre("", "https://accounts.example.com", "")


@pytest.fixture
def port() -> int:
    """Give a port that is free on both loopback addresses."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def request_(port: int) -> AuthorizationRequest:
    return AuthorizationRequest.make(EU, "1000.CLIENT", "ZohoCRM.modules.ALL,x", f"http://localhost:{port}/callback")


# --- The request ----------------------------------------------------------------------------------------------------


def test_authorization_request_has_all_parameters(request_: AuthorizationRequest) -> None:
    parts = urlsplit(request_.url)
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "https://accounts.zoho.eu/oauth/v2/auth"
    challenge = base64.urlsafe_b64encode(hashlib.sha256(request_.verifier.encode()).digest()).decode().rstrip("=")
    assert {name: values[0] for name, values in parse_qs(parts.query, strict_parsing=True).items()} == {
        "client_id": "1000.CLIENT",
        "response_type": "code",
        "redirect_uri": request_.redirect_uri,
        "scope": "ZohoCRM.modules.ALL,x",
        "access_type": "offline",
        "prompt": "consent",
        "state": request_.state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    assert 43 <= len(request_.verifier) <= 128
    assert request_.verifier not in request_.url


def test_authorization_request_is_another_one_each_time(request_: AuthorizationRequest) -> None:
    other = AuthorizationRequest.make(EU, "1000.CLIENT", "x", request_.redirect_uri)
    assert len({request_.state, other.state}) == len({request_.verifier, other.verifier}) == 2
    assert not any(secret in repr(request_) for secret in (request_.state, request_.verifier))
    assert "1000.CODE" not in repr(Callback("1000.CODE"))


def query(request: AuthorizationRequest, *without: str, **more: str) -> str:
    """Return the query of a callback as Zoho sends it, with changes."""
    parameters = {
        "state": request.state,
        "code": "1000.CODE",
        "location": "eu",
        "accounts-server": "https://accounts.zoho.eu",
        **more,
    }
    return urlencode({name: value for name, value in parameters.items() if name not in without})


def test_callback_of_the_request_is_taken(request_: AuthorizationRequest) -> None:
    expected = Callback("1000.CODE", "", "https://accounts.zoho.eu", "eu")
    assert request_.callback(query(request_)) == expected
    assert request_.callback(query(request_) + "&") == expected
    assert request_.callback(query(request_, "location", "accounts-server")) == Callback("1000.CODE")
    refused = request_.callback(query(request_, "code", "location", "accounts-server", error="access_denied"))
    assert refused == Callback("", "access_denied")
    assert request_.pasted(f" {request_.redirect_uri}?{query(request_)}\n") == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda q, _state: q.replace("state=", "state=x"),
        lambda q, _state: q.replace("state=", "other="),
        lambda q, _state: q.replace("state=", "State="),
        lambda q, state: q.replace(state, ""),
        lambda q, state: q.replace(state, state[:-1]),
        lambda q, state: q.replace(state, "%F0%9F%92%A9%FF"),
        lambda q, state: f"{q}&state={state}",
        lambda q, _state: f"{q}&code=1000.OTHER",
        lambda q, _state: f"{q}&accounts-server=https://accounts.zoho.com",
        lambda q, _state: f"{q}&x=1&x=2",
        lambda q, _state: q.replace("code=1000.CODE", "code="),
        lambda q, _state: q.replace("code=", "token="),
        lambda _q, _state: "",
    ],
)
def test_callback_of_another_request_is_none(request_: AuthorizationRequest, change: Callable[[str, str], str]) -> None:
    changed = change(query(request_), request_.state)
    assert request_.callback(changed) is None
    assert request_.pasted(f"{request_.redirect_uri}?{changed}") is None


def test_pasted_text_that_is_no_callback_is_none(request_: AuthorizationRequest) -> None:
    for text in ("", "hello", request_.url, "http://[", f"http://x/?state=\udcff&{query(request_, 'state')}"):
        assert request_.pasted(text) is None
    assert request_.pasted(f"{request_.redirect_uri}?{query(request_, x='x' * 9_000)}") is None


# --- Where the code is exchanged ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "location", "began_at", "expected"),
    [
        ("", "", US, US),
        ("https://accounts.zoho.com", "us", US, US),
        ("https://accounts.zoho.eu", "eu", US, EU),
        ("https://accounts.zoho.eu", "", US, EU),
        ("", "eu", US, EU),
        ("", "mars", US, US),
        ("", "eu", NAMED, NAMED),
        ("https://accounts.example.com", "eu", NAMED, NAMED),
    ],
)
def test_exchange_centre_is_the_user_own(
    server: str, location: str, began_at: DataCentre, expected: DataCentre
) -> None:
    assert exchange_centre(Callback("c", "", server, location), began_at) == expected


@pytest.mark.parametrize(
    ("server", "location", "began_at"),
    [
        ("https://accounts.zoho.eu.evil.example", "eu", EU),
        ("https://evil.example", "", US),
        ("http://accounts.zoho.eu", "eu", EU),
        ("https://accounts.zoho.eu:444", "eu", EU),
        ("https://user@accounts.zoho.eu", "eu", EU),
        ("https://accounts.zoho.eu/path", "eu", EU),
        ("accounts.zoho.eu", "eu", EU),
        # The user's own server stays the only one, even for a server of Zoho's.
        ("https://accounts.zoho.eu", "eu", NAMED),
        ("https://accounts.zoho.eu", "us", EU),
        ("https://accounts.zoho.eu", "mars", EU),
        ("https://accounts.zoho.com", "eu", EU),
    ],
)
def test_exchange_centre_of_forged_callback_is_refused(server: str, location: str, began_at: DataCentre) -> None:
    with pytest.raises(SignInError, match="nothing was sent"):
        exchange_centre(Callback("c", "", server, location), began_at)


@pytest.mark.parametrize(
    "uri", [DEFAULT_REDIRECT_URI, "http://127.0.0.1:1/", "http://[::1]:1/a/b", "http://localhost:1"]
)
def test_redirect_uri_of_this_machine_is_accepted(uri: str) -> None:
    require_redirect_uri(uri)
    assert DEFAULT_REDIRECT_URI == "http://localhost:18734/callback"


@pytest.mark.parametrize(
    "uri",
    [
        "https://localhost:1/callback",
        "http://example.com:1/callback",
        "http://localhost/callback",
        "http://localhost:0/callback",
        "http://localhost:99999/callback",
        "http://me@localhost:1/callback",
        "http://localhost:1/callback?x=1",
        "http://localhost:1/callback#x",
        "http://localhost:1/signed-in",
        "http://localhost:1/a b",
        "http://localhost:1/ä",
        "http://localhost:1/a%62c",
        "callback",
        "http://[",
    ],
)
def test_redirect_uri_elsewhere_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match=r"not one of this machine.*http://localhost:18734/callback"):
        require_redirect_uri(uri)


# --- The web server -------------------------------------------------------------------------------------------------


def get(port: int, target: str, *, method: str = "GET", host: str | None = None, to: str = "127.0.0.1") -> Any:
    """Return a reply and its body."""
    connection = http.client.HTTPConnection(to, port, timeout=10)
    connection.request(method, target, headers={"Host": f"localhost:{port}" if host is None else host})
    reply = connection.getresponse()
    body = reply.read().decode()
    connection.close()
    return reply, body


@pytest.fixture
def served(request_: AuthorizationRequest, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener[Callback]]:
    monkeypatch.setattr(listener, "_LAST_PAGE_S", 0.01)
    server = Listener(port, "/callback", request_.callback)
    with server.listening():
        yield server


@pytest.mark.parametrize("to", ["127.0.0.1", "::1"])
def test_listener_takes_the_callback_on_both_addresses(
    served: Listener[Callback], request_: AuthorizationRequest, to: str
) -> None:
    """The browser waits for the exchange, and then gets a page whose address tells nothing."""
    replies: list[Any] = []
    target = f"/callback?{query(request_)}"
    browser_ = threading.Thread(target=lambda: replies.append(get(served.port, target, to=to)))
    browser_.start()
    assert served.callbacks.get(timeout=5).code == "1000.CODE"
    browser_.join(0.1)
    assert replies == []
    served.outcome.succeed()
    threading.Thread(target=served.outcome.end).start()
    browser_.join(5)
    [(reply, _)] = replies
    assert (reply.status, reply.headers["Location"]) == (303, "/signed-in")
    page, body = get(served.port, "/signed-in", to=to)
    assert (page.status, "Signed in" in body) == (200, True)
    for headers in (reply.headers, page.headers):
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    ("target", "options", "status"),
    [
        ("/callback?{wrong}", {}, 400),
        ("/callback", {}, 400),
        ("/callback?{query}&code=2", {}, 400),
        ("/callback?{query}", {"host": "evil.example"}, 400),
        ("/callback?{query}", {"host": "evil.example:{port}"}, 400),
        ("/callback?{query}", {"host": "localhost"}, 400),
        ("/callback?{query}", {"host": "localhost:1"}, 400),
        ("/callback?{query}", {"host": ""}, 400),
        ("/callback/?{query}", {}, 404),
        ("/Callback?{query}", {}, 404),
        ("/call%62ack?{query}", {}, 404),
        ("//callback?{query}", {}, 404),
        ("/?{query}", {}, 404),
        ("/favicon.ico", {}, 404),
        ("/signed-in?{query}", {}, 404),
        ("/callback?{query}", {"method": "POST"}, 501),
        ("/callback?{query}", {"method": "HEAD"}, 501),
        ("/callback?{query}", {"method": "<script>"}, 501),
        ("/callback?{query}" + "x" * 70_000, {}, 414),
    ],
)
def test_listener_answers_other_requests_and_goes_on_waiting(
    served: Listener[Callback], request_: AuthorizationRequest, target: str, options: dict[str, str], status: int
) -> None:
    wrong = query(request_).replace(request_.state, "<script>alert(1)</script>")
    target = target.format(query=query(request_), wrong=wrong)
    options = {name: value.format(port=served.port) for name, value in options.items()}
    reply, body = get(served.port, target, **options)
    assert reply.status == status
    assert reply.headers["Cache-Control"] == "no-store"
    assert "script" not in body
    assert "1000.CODE" not in body + str(reply.headers)
    assert served.callbacks.empty()
    # The right one still comes through.
    threading.Thread(target=get, args=(served.port, f"/callback?{query(request_)}")).start()
    assert served.callbacks.get(timeout=5).code == "1000.CODE"


def test_listener_hosts_of_http_own_port_have_none() -> None:
    assert listener._hosts(80) == {
        *("localhost", "127.0.0.1", "[::1]"),
        *("localhost:80", "127.0.0.1:80", "[::1]:80"),
    }


def test_listener_ignores_nonsense_and_a_browser_that_has_gone(
    served: Listener[Callback], request_: AuthorizationRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither is printed: a traceback could show the callback."""
    for sent in (b"nonsense\r\n\r\n", b"GET /callback?" + query(request_).encode() + b" HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    time.sleep(0.05)
    get(served.port, "/failed")
    assert served.callbacks.empty()
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs_proc
def test_listener_is_reached_only_by_loopback(served: Listener[Callback]) -> None:
    addresses = {
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text(encoding="ascii").splitlines()
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{served.port:04X}")
    }
    assert {address.partition(":")[0] for address in addresses} == {"0100007F", "0" * 24 + "01000000"}


#: What the system says of a port that another program has; Windows has several texts.
TAKEN = "address already in use" if os.name == "posix" else ""


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_listener_on_taken_port_names_it(port: int, family: socket.AddressFamily, host: str) -> None:
    """Also on the second address alone; and it leaves the first one free."""
    server: Listener[str] = Listener(port, "/", str)
    with socket.socket(family) as other:
        other.bind((host, port))
        other.listen()
        with pytest.raises(ConfigurationError, match=f"cannot listen on port {port} of {host}: {TAKEN}"):
            server.listening().__enter__()
    with server.listening():
        pass


def test_listener_uses_the_port_again_at_once(port: int) -> None:
    """The kernel remembers the connections of the sign-in before for a minute."""
    for _ in range(2):
        with Listener(port, "/", str).listening():
            get(port, "/failed")


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_listener_without_ipv6_uses_the_other_address(port: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Server(listener._Server):
        def server_bind(self) -> None:
            if self.address_family == socket.AF_INET6:
                raise OSError(number, os.strerror(number))
            super().server_bind()

    monkeypatch.setattr(listener, "_Server", Server)
    with Listener(port, "/", str).listening():
        assert get(port, "/failed")[0].status == 200
        with pytest.raises(OSError, match="refused"):
            get(port, "/failed", to="::1")


# --- The sign-in ----------------------------------------------------------------------------------------------------


class TestUser:
    """A user who does something when the address is shown."""

    __test__ = False

    def __init__(self, do: Callable[[], object] = lambda: None, *pastes: str) -> None:
        self._do = do
        self.pastes = list(pastes)
        self.told: list[str] = []

    def open(self, url: str) -> None:
        """Do it."""
        assert "state=" in url
        threading.Thread(target=self._do, daemon=True).start()

    def pasted(self) -> str:
        """Paste the next line."""
        return self.pastes.pop(0) if self.pastes else ""

    def tell(self, text: str) -> None:
        """Note it."""
        self.told.append(text)


def run(request: AuthorizationRequest, user: TestUser, timeout_s: float = 5.0) -> list[Callback]:
    taken: list[Callback] = []
    sign_in(request, taken.append, timeout_s=timeout_s, user=user)
    return taken


def visited(port: int, target: str) -> tuple[int, str]:
    """Go to an address as a slow browser does, and return the status and the page."""
    reply, body = get(port, target)
    if reply.status != 303:
        return reply.status, body
    time.sleep(0.3)
    return visited(port, reply.headers["Location"])


def test_sign_in_shows_the_browser_how_it_ended(request_: AuthorizationRequest, port: int) -> None:
    """The last page is served before the port is closed."""
    pages: list[tuple[int, str]] = []
    visits = threading.Event()

    def visit() -> None:
        pages.append(visited(port, f"/callback?{query(request_, 'state')}"))
        pages.append(visited(port, f"/callback?{query(request_)}"))
        visits.set()

    assert [callback.code for callback in run(request_, TestUser(visit))] == ["1000.CODE"]
    assert visits.wait(5)
    assert [status for status, _ in pages] == [400, 200]
    assert "Signed in" in pages[1][1]


def test_sign_in_refused_shows_the_browser_a_failure(request_: AuthorizationRequest, port: int) -> None:
    pages: list[tuple[int, str]] = []
    for error, problem in (
        ("access_denied", "was refused on Zoho's page"),
        ("general_error", r"has failed at Zoho \(general_error\)"),
        ("<b>\x1b", r"has failed at Zoho \(unknown error\)"),
    ):
        target = f"/callback?{query(request_, 'code', error=error)}"
        done = threading.Event()

        def visit(target: str = target, done: threading.Event = done) -> None:
            pages.append(visited(port, target))
            done.set()

        with pytest.raises(SignInError, match=problem):
            run(request_, TestUser(visit))
        assert done.wait(5)
    assert all(status == 200 and "has failed" in page for status, page in pages)


def test_sign_in_by_pasted_address(request_: AuthorizationRequest) -> None:
    """Wrong ones are answered and waited on."""
    address = f"{request_.redirect_uri}?{query(request_)}\n"
    user = TestUser(lambda: None, "hello\n", "\n", address.replace("state=", "state=x"), address)
    assert [callback.code for callback in run(request_, user)] == ["1000.CODE"]
    assert user.told == ["This is not the address of the running sign-in's callback."] * 2


def test_sign_in_without_callback_times_out_with_advice(request_: AuthorizationRequest) -> None:
    with pytest.raises(SignInError, match=r"no sign-in within 0\.2 s.*error page.*--dc.*registered") as caught:
        run(request_, TestUser(), 0.2)
    assert request_.redirect_uri in str(caught.value)


def test_sign_in_of_browser_that_asks_for_no_page_ends(
    request_: AuthorizationRequest, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_LAST_PAGE_S", 0.1)
    assert run(request_, TestUser(lambda: get(port, f"/callback?{query(request_)}")))


def test_sign_in_redirect_uri_without_path_is_the_root(port: int) -> None:
    request = AuthorizationRequest.make(EU, "c", "x", f"http://localhost:{port}")
    assert run(request, TestUser(lambda: visited(port, f"/?{query(request)}")))


# --- The browser ----------------------------------------------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a function that makes programs, which write their arguments to a file."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def make(*names: str) -> None:
        for name in names:
            code = f"import os, sys; open({str(tmp_path / 'called')!r}, 'w').write(repr((sys.argv, os.getsid(0))))"
            (tmp_path / name).write_text(f"#!{sys.executable}\n{code}\nprint('noise')\n")
            (tmp_path / name).chmod(0o700)

    return make


def called(tmp_path: Path) -> list[str]:
    """Return the arguments of the program that was started."""
    file = tmp_path / "called"
    deadline_s = time.monotonic() + 10
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    arguments, session = eval(file.read_text())  # noqa: S307 - what the program above has written
    assert session != os.getsid(0)
    file.unlink()
    return [os.path.basename(arguments[0]), *arguments[1:]]


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("mine", ["mine", "https://u?a=1&b=2"]),
        ("mine --new '%s' &", ["mine", "--new", "https://u?a=1&b=2"]),
        ("mine --url=%s", ["mine", "--url=https://u?a=1&b=2"]),
        ("missing:w3m:'a: :mine -x", ["mine", "-x", "https://u?a=1&b=2"]),
        ("{path}/mine", ["mine", "https://u?a=1&b=2"]),
    ],
)
def test_open_browser_obeys_the_variable(  # noqa: PLR0917 - pytest passes by name
    programs: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variable: str,
    expected: list[str],
) -> None:
    """Also without a display: the variable may name a helper of the terminal."""
    programs("mine", "w3m", "xdg-open")
    monkeypatch.setenv("BROWSER", variable.format(path=tmp_path))
    assert open_browser("https://u?a=1&b=2")
    assert called(tmp_path) == expected
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize("display", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_open_browser_with_display_asks_the_desktop(
    programs: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, display: str
) -> None:
    programs("firefox", "w3m", "lynx")
    assert not open_browser("https://u")  # There is no display.
    monkeypatch.setenv(display, ":0")
    assert open_browser("https://u")
    assert called(tmp_path) == ["firefox", "https://u"]
    programs("xdg-open")
    assert open_browser("https://u")
    assert called(tmp_path) == ["xdg-open", "https://u"]


@pytest.mark.needs_posix_shell
def test_open_browser_starts_no_text_browser(
    programs: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the terminal."""
    programs("w3m", "lynx", "www-browser", "xdg-open")
    monkeypatch.setenv("DISPLAY", ":0")
    for variable in ("w3m", f"{tmp_path}/lynx %s", "www-browser:missing"):
        monkeypatch.setenv("BROWSER", variable)
        assert not open_browser("https://u")
    time.sleep(0.1)
    assert not (tmp_path / "called").exists()


@pytest.mark.needs_posix_shell
def test_open_browser_on_a_mac_uses_open(
    programs: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs("open")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert open_browser("https://u")
    assert called(tmp_path) == ["open", "https://u"]


@pytest.mark.needs_posix_shell
def test_open_browser_on_windows_uses_the_handler_of_urls(
    programs: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ``start``, which a shell would run."""
    programs("rundll32")
    monkeypatch.setattr("zoho_keystore._platform.IS_WINDOWS", True)
    assert open_browser("https://u")
    assert called(tmp_path) == ["rundll32", "url.dll,FileProtocolHandler", "https://u"]
