"""``login`` against the fake server: in this process, and as a process with a browser and with a terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import threading
import urllib.error
import urllib.request
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fake_zoho import ZGID, Callback, Client, FakeZoho, Fault
from support import Terminal, failing, made_key, run_program, usage_error
from zoho_keystore._cli import login as module
from zoho_keystore._cli import main
from zoho_keystore._keystore import Keystore
from zoho_keystore._oauth import data_centres, device, http
from zoho_keystore._oauth.data_centres import DataCentre
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import DurabilityUnknownError, KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from click.testing import Result

ADA, EVE = f"ada@example.com:{ZGID}", f"eve@example.com:{ZGID}"
SCOPE = "ZohoCRM.modules.ALL,ZohoCRM.settings.ALL,ZohoCRM.users.READ,ZohoCRM.org.READ"

pytestmark = pytest.mark.usefixtures("work")


def free_port() -> int:
    """Return a port that is free on both loopback addresses."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


class Scene:
    """A fake server with a client, and a browser that goes wherever it is sent.

    Attributes:
        zoho: The fake server.
        client: A server-based client.
        redirect_uri: Its redirect URI.
        pages: The addresses at which the browser ended, each with the page.
    """

    def __init__(self, zoho: FakeZoho) -> None:
        self.zoho = zoho
        self.redirect_uri = f"http://localhost:{free_port()}/callback"
        self.client = zoho.new_client(redirect_uris=[self.redirect_uri])
        self.visits: list[threading.Thread] = []
        self.pages: list[tuple[str, str]] = []

    def open_browser(self, url: str) -> bool:
        """Go to an address in the background."""
        self.visits.append(threading.Thread(target=self.visit, args=(url,), daemon=True))
        self.visits[-1].start()
        return True

    def visit(self, url: str) -> None:
        """Go to an address, and note where that ends; an error page is not noted."""
        with suppress(OSError), urllib.request.urlopen(url, timeout=10) as page:  # noqa: S310 - loopback
            self.pages.append((page.url, page.read().decode()))

    def arguments(self, client: Client | None, *more: str) -> list[str]:
        """Return the arguments of a sign-in with a client."""
        chosen = [] if client is None else ["--client-id", client.id, "--client-secret", "env:CLIENT_SECRET"]
        where = [] if "--id" in more else ["--dc", self.zoho.url]
        return ["login", *chosen, *where, "--redirect-uri", self.redirect_uri, *more]

    def login(self, *more: str, client: Client | None = None, code: int = 0, **options: Any) -> Result:
        """Run ``login``, and check its exit code."""
        if client is None and not {"--id", "--self-client"} & set(more):
            client = self.client
        secret = "" if client is None else client.secrets["us"]
        options = {"env": {"CLIENT_SECRET": secret}, **options}
        result = CliRunner().invoke(main, self.arguments(client, *more), prog_name="zoho-keystore", **options)
        assert result.exit_code == code, result.output
        assert isinstance(result.exception, SystemExit | None), result.exception
        for visit in self.visits:
            visit.join(10)
        return result

    def refused(self, code: int, *more: str, **options: Any) -> str:
        """Run a ``login`` that fails, and return the message."""
        result = self.login(*more, code=code, **options)
        assert result.stdout == ""
        return result.stderr.rpartition("zoho-keystore: ")[2]


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(http, "_RETRY_PAUSE_S", 0.01)
    with FakeZoho(consent="accept") as zoho:
        scene = Scene(zoho)
        monkeypatch.setattr(module, "open_browser", scene.open_browser)
        yield scene


def records() -> Sequence[TokenRecord]:
    """Return what the user's store holds."""
    with closing(open_keystore(create=False)) as keystore:
        return keystore.records()


# --- By browser -----------------------------------------------------------------------------------------------------


def test_login_from_nothing_makes_store_and_keeps_token(scene: Scene, ring: Path) -> None:
    done = scene.login()
    assert done.stdout == "1\n"
    [record] = records()
    assert record.user_name == ADA
    assert (record.client_id, record.client_secret) == (scene.client.id, scene.client.secrets["us"])
    assert (record.access_token, record.api_domain) == (scene.zoho.issued[0], scene.zoho.url)
    assert (record.scope, record.accounts_url, record.kind) == (SCOPE, scene.zoho.url, "browser")
    assert record.redirect_url == scene.redirect_uri
    assert record.refresh_token
    assert record.signed_in_at
    assert ring.exists()
    for part in (
        "Created the key ring",
        "Keep a copy",
        "Created the store",
        "Opening your browser",
        scene.redirect_uri,
    ):
        assert part in done.stderr
    assert f"Signed in {ADA}: token 1 in" in done.stderr
    [(address, page)] = scene.pages
    assert address == scene.redirect_uri.replace("/callback", "/signed-in")
    assert "Signed in" in page


def test_login_with_a_key_that_is_set_makes_no_ring(scene: Scene, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", made_key("k").decode())
    done = scene.login()
    assert "Created the store" in done.stderr
    assert "key ring" not in done.stderr
    assert not ring.exists()


def test_login_finished_after_another_process_deleted_the_token_is_none(empty: Path) -> None:
    assert empty
    with closing(open_keystore()) as keystore:
        assert keystore.finish_sign_in("7", ADA) is None


def test_login_prints_json(scene: Scene) -> None:
    shown = json.loads(scene.login("--json").stdout)
    assert (shown["id"], shown["user_name"]) == ("1", ADA)
    assert "value" not in shown["refresh_token"]


def test_login_of_same_user_and_client_updates_the_record(scene: Scene) -> None:
    scene.login()
    with closing(open_keystore()) as keystore:
        keystore.change("1", lambda one, _: replace(one, grant_token="grant", refused_at=7))
    assert scene.login().stdout == "1\n"
    [record] = records()
    assert record.access_token == scene.zoho.issued[-1]
    assert (record.grant_token, record.refused_at) == ("grant", 0)
    scene.zoho.browser_user = "eve@example.com"
    other = scene.login().stdout.strip()
    assert [(one.id, one.user_name) for one in records()] == [("1", ADA), (other, EVE)]


def test_login_again_uses_client_scope_and_data_centre_of_the_token(scene: Scene) -> None:
    scene.login("--scope", "ZohoCRM.users.READ ZohoCRM.org.READ")
    assert scene.login("--id", "1").stdout == "1\n"
    [record] = records()
    assert record.access_token == scene.zoho.issued[-1] != scene.zoho.issued[0]
    assert scene.zoho.requests_of("authorize")[-1].parameters["scope"] == "ZohoCRM.users.READ,ZohoCRM.org.READ"
    assert scene.login("--id", "1", "--scope", SCOPE).stdout == "1\n"
    assert scene.zoho.requests_of("authorize")[-1].parameters["scope"] == SCOPE


def test_login_again_keeps_the_name_that_programs_know(scene: Scene) -> None:
    """Older releases of the SDK know a user by the address alone, and programs may use names of their own."""
    scene.login()
    for name in ("ada@example.com", "main account", ""):
        with closing(open_keystore()) as keystore:
            keystore.change("1", lambda one, _, name=name: replace(one, user_name=name))  # type: ignore[misc] # a default in a lambda
        assert scene.login("--id", "1").stdout == "1\n"
        assert [one.user_name for one in records()] == [name or ADA]


def test_login_again_as_another_user_changes_no_other_token(scene: Scene) -> None:
    """Programs that use token 1 must not act as Eve from now on."""
    scene.login()
    [before] = records()
    scene.zoho.browser_user = "eve@example.com"
    message = scene.refused(13, "--id", "1")
    assert re.search(rf"another user has signed in, {EVE}: kept as the token '2', and the token '1' is as it", message)
    assert [one.user_name for one in records()] == [ADA, EVE]
    assert records()[0] == before
    assert "has failed" in scene.pages[-1][1]


def test_login_again_of_unknown_token_or_one_without_client_is_refused(scene: Scene, empty: Path) -> None:
    assert empty
    assert "there is no token '7'" in scene.refused(9, "--id", "7")
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(access_token="a"))
    assert "has no client id" in scene.refused(2, "--id", "1")
    assert scene.zoho.requests == []


@pytest.mark.parametrize(
    "callback",
    [
        Callback(without=("state",)),
        Callback(replace={"state": "wrong"}),
        Callback(add=(("code", "1000.other"),)),
    ],
)
def test_login_waits_on_after_a_callback_of_another_request(scene: Scene, callback: Callback) -> None:
    url: list[str] = []
    scene.zoho.callback = callback

    def visit(address: str) -> None:
        url.append(address)
        Scene.visit(scene, address)  # It is answered by 400.
        scene.zoho.callback = Callback(trailing_ampersand=True)
        Scene.visit(scene, address)

    scene.visit = visit  # type: ignore[method-assign,assignment] # for this test
    assert scene.login().stdout == "1\n"
    assert scene.zoho.count("grant") == 1
    assert len(scene.pages) == 1


def test_login_sends_nothing_to_a_forged_accounts_server(scene: Scene) -> None:
    """The client secret would go there."""
    with FakeZoho() as evil:
        scene.zoho.callback = Callback(replace={"accounts-server": evil.url})
        assert "an accounts server that is not Zoho's; nothing was sent there" in scene.refused(13)
        assert evil.requests == []
    assert scene.zoho.count("grant") == 0
    assert records() == []
    assert "has failed" in scene.pages[0][1]


@pytest.fixture
def centres(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """Give a scene in which the table's us and eu are fake servers."""
    monkeypatch.setattr(http, "_RETRY_PAUSE_S", 0.01)
    with FakeZoho(consent="accept", locations=("us", "eu")) as zoho:
        for location in zoho.locations:
            entry = DataCentre(location, zoho.accounts_url(location), zoho.api_url(location))
            monkeypatch.setitem(data_centres.DATA_CENTRES, location, entry)
        hosts = {zoho.api_url(location).removeprefix("http://") for location in zoho.locations}
        monkeypatch.setattr(data_centres, "API_HOSTS", hosts)
        scene = Scene(zoho)
        monkeypatch.setattr(module, "open_browser", scene.open_browser)
        zoho.new_user("eve@example.com", "eu")
        zoho.browser_user = "eve@example.com"
        yield scene


def test_login_exchanges_the_code_in_the_user_data_centre(centres: Scene) -> None:
    secret = centres.client.secrets["eu"]
    for callback in (Callback(), Callback(without=("location",)), Callback(without=("accounts-server",))):
        centres.zoho.callback = callback
        centres.login(env={"CLIENT_SECRET": secret})
    [record] = records()
    assert record.accounts_url == centres.zoho.accounts_url("eu")
    assert record.api_domain == centres.zoho.api_url("eu")
    assert {request.location for request in centres.zoho.requests_of("grant")} == {"eu"}
    centres.login("--id", "1", env={})
    assert centres.zoho.requests_of("authorize")[-1].location == "eu"


def test_login_of_contradicting_callback_sends_nothing(centres: Scene) -> None:
    centres.zoho.callback = Callback(replace={"location": "us"})
    assert "do not belong together; nothing was sent" in centres.refused(13)
    assert centres.zoho.count("grant") == 0


def test_login_with_unknown_api_server_sends_no_token_there(centres: Scene) -> None:
    with FakeZoho() as evil:
        centres.zoho.alter_tokens = {"api_domain": evil.url}
        done = centres.login(env={"CLIENT_SECRET": centres.client.secrets["eu"]})
        assert "Warning: Zoho named no API server that is known here; the token is kept" in done.stderr
        assert evil.requests == []


def test_login_on_taken_port_names_it(scene: Scene) -> None:
    port = int(scene.redirect_uri.split(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        assert f"cannot listen on port {port} of 127.0.0.1" in scene.refused(2)
    assert scene.zoho.requests == []


def test_login_refused_or_not_answered_keeps_nothing(scene: Scene) -> None:
    scene.zoho.consent = "reject"
    assert "was refused on Zoho's page; nothing was kept" in scene.refused(13)
    # An error page of Zoho's never comes back.
    assert "no sign-in within 1 s" in scene.refused(13, "--scope", "nonsense", "--timeout", "1")
    assert records() == []


def test_login_without_refresh_token_keeps_nothing(scene: Scene) -> None:
    scene.zoho.alter_tokens = {"refresh_token": None}
    assert "no refresh token; nothing was kept" in scene.refused(13)
    assert records() == []


@pytest.mark.parametrize(
    ("fault", "code", "problem"),
    [
        (Fault.error("invalid_code", 401), 13, "does not accept the code"),
        (Fault.error("invalid_client", 400), 15, "does not know the client"),
        (Fault.error("Access Denied"), 16, "for a while"),
        (Fault.html(), 17, "gave no answer of Zoho's"),
        (Fault.json({}), 17, "gave no answer of Zoho's"),
        (Fault.lost(), 17, "cannot be reached"),
    ],
)
def test_login_with_refused_exchange_keeps_nothing(scene: Scene, fault: Fault, code: int, problem: str) -> None:
    scene.zoho.reply_next(fault)
    assert problem in scene.refused(code)
    assert records() == []
    assert scene.zoho.count("grant") == 1


def test_login_with_smaller_scope_warns(scene: Scene) -> None:
    scene.zoho.scope_in_reply = True
    scene.zoho.granted_scope = "ZohoCRM.modules.ALL,ZohoCRM.users.READ"
    done = scene.login()
    assert "Warning: Zoho did not grant ZohoCRM.settings.ALL, ZohoCRM.org.READ." in done.stderr
    assert "did not tell who signed in, which needs the scopes" in done.stderr
    [record] = records()
    assert (record.scope, record.user_name) == ("ZohoCRM.modules.ALL,ZohoCRM.users.READ", None)


def test_login_whose_user_cannot_be_named_warns(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.zoho.reply_next(Fault.html(), times=2, to="users")
    done = scene.login()
    assert "Warning: 127.0.0.1" in done.stderr
    assert "Signed in a user without a name" in done.stderr

    def fails(*_: object, **__: object) -> None:
        raise KeystoreError("the disk is full")

    monkeypatch.setattr(Keystore, "finish_sign_in", fails)
    assert "Warning: the disk is full; the token is kept without" in scene.login().stderr
    monkeypatch.setattr(Keystore, "finish_sign_in", lambda *_, **__: None)
    assert "Warning: another process has deleted the token meanwhile." in scene.login().stderr
    monkeypatch.setattr(Keystore, "finish_sign_in", raising(DurabilityUnknownError))
    assert "may not survive a power cut" in scene.refused(6)
    assert len(records()) == 4


def raising(kind: type[KeystoreError]) -> Callable[..., None]:
    def fails(*_: object, **__: object) -> None:
        raise kind("it may not survive a power cut")

    return fails


# --- The store ------------------------------------------------------------------------------------------------------


def test_login_proves_the_store_writable_before_a_code_is_spent(
    scene: Scene, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a save finds a full disk."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", failing(28))
        assert "no space left" in scene.refused(6)
    empty.write_bytes(b"damaged")
    scene.refused(4)
    assert scene.zoho.requests == []


def test_login_whose_token_cannot_be_saved_says_that_it_is_lost(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Keystore.save
    monkeypatch.setattr(Keystore, "save", raising(KeystoreError))
    message = scene.refused(1)
    assert "what Zoho has issued is lost" in message
    assert "sign in again" in message
    monkeypatch.setattr(Keystore, "save", raising(DurabilityUnknownError))
    assert "lost" not in scene.refused(6)
    monkeypatch.setattr(Keystore, "save", save)


def test_login_in_a_given_store_with_a_given_ring(scene: Scene, work: Path) -> None:
    ring = f"file:{work / 'ring'}"
    arguments = ["--store", "mine.keystore", "--key", ring, *scene.arguments(scene.client)]
    done = CliRunner().invoke(main, arguments, env={"CLIENT_SECRET": scene.client.secrets["us"]})
    assert done.exit_code == 0, done.output
    with closing(open_keystore("mine.keystore", key=ring)) as keystore:
        assert len(keystore.records()) == 1


def test_login_without_requests_makes_nothing(scene: Scene, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    assert "requests is not installed" in scene.refused(2)
    assert not ring.exists()


# --- Other ways -----------------------------------------------------------------------------------------------------


def test_login_by_grant_from_stdin(scene: Scene) -> None:
    client = scene.zoho.new_client("self", redirect_uris=())
    arguments = ["login", "--grant", "--client-id", client.id, "--client-secret", "env:S", "--dc", scene.zoho.url]
    code = scene.zoho.new_grant("ada@example.com", client)
    done = CliRunner().invoke(main, arguments, input=f"{code}\n", env={"S": client.secrets["us"]})
    assert (done.exit_code, done.stdout) == (0, "1\n"), done.output
    assert "redirect_uri" not in scene.zoho.requests_of("grant")[0].form
    assert records()[0].kind == "grant"
    # Again: in the same way, without being told.
    again = CliRunner().invoke(main, ["login", "--id", "1"], input=scene.zoho.new_grant("ada@example.com", client))
    assert (again.exit_code, again.stdout) == (0, "1\n"), again.output
    empty = CliRunner().invoke(main, ["login", "--id", "1"], input="")
    assert (empty.exit_code, "There is no code on stdin" in empty.output) == (2, True)


def test_login_by_grant_of_a_web_client_sends_its_redirect_uri(scene: Scene) -> None:
    done = scene.login("--grant", input=scene.zoho.new_grant())
    assert done.stdout == "1\n"
    assert scene.zoho.requests_of("grant")[0].form["redirect_uri"] == scene.redirect_uri


def self_client(scene: Scene, work: Path, **changes: Any) -> str:
    client = scene.zoho.new_client("self", redirect_uris=())
    fields = {
        "client_id": client.id,
        "client_secret": client.secrets["us"],
        "code": scene.zoho.new_grant("ada@example.com", client),
        "scope": ["ZohoCRM.users.READ", "ZohoCRM.org.READ"],
        "grant_type": "authorization_code",
        "expiry_time": 1,
        **changes,
    }
    path = work / "self_client.json"
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return str(path)


def test_login_by_self_client_file(scene: Scene, work: Path) -> None:
    for scope, kept in (
        (["ZohoCRM.users.READ", "ZohoCRM.org.READ"], "ZohoCRM.users.READ,ZohoCRM.org.READ"),
        ("ZohoCRM.users.READ ZohoCRM.org.READ", "ZohoCRM.users.READ,ZohoCRM.org.READ"),
        (None, SCOPE),
    ):
        path = self_client(scene, work, scope=scope)
        arguments = ["login", "--self-client", path, "--dc", scene.zoho.url]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        record = records()[-1]
        assert (record.scope, record.kind, record.redirect_url) == (kept, "self client", None)
    # For a token that is there, the client of the file takes the place of its own.
    path = self_client(scene, work)
    done = CliRunner().invoke(main, ["login", "--self-client", path, "--id", "1"])
    assert (done.exit_code, done.stdout) == (0, "1\n"), done.output
    assert records()[0].client_id == json.loads(Path(path).read_text(encoding="utf-8"))["client_id"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "not the JSON file"),
        ("[" * 100_000, "not the JSON file"),
        (" " * 99_999, "not the JSON file"),
        ("[]", "lacks client_id"),
        ('{"client_id": "1000.X", "client_secret": 7, "code": "SECRET"}', "lacks client_id"),
        (None, "cannot be read: no such file"),
    ],
)
def test_login_by_broken_self_client_file_is_refused(
    scene: Scene, work: Path, content: str | None, problem: str
) -> None:
    if content is not None:
        (work / "file.json").write_text(content)
    message = scene.refused(13, "--self-client", "file.json")
    assert problem in message
    assert "Download it again" in message
    assert "SECRET" not in message


def test_login_by_client_credentials_updates_its_record(scene: Scene) -> None:
    client = scene.zoho.new_client("self", redirect_uris=())
    way = ("--client-credentials", "--soid", f"ZohoCRM.{ZGID}")
    assert scene.login(*way, client=client).stdout == "1\n"
    assert scene.login(*way, client=client).stdout == "1\n"
    assert scene.login("--id", "1").stdout == "1\n"
    [record] = records()
    assert (record.kind, record.soid, record.refresh_token) == ("client credentials", f"ZohoCRM.{ZGID}", None)
    assert record.access_token == scene.zoho.issued[2]
    assert scene.zoho.count("users") == 0
    assert "--soid" in scene.refused(13, "--client-credentials", "--soid", "ZohoCRM.1", client=client)


def test_login_by_client_credentials_leaves_the_token_of_a_user(scene: Scene) -> None:
    """Else the user's record would have an access token without a user, until the next refresh."""
    client = scene.zoho.new_client("self", redirect_uris=())
    scene.login("--grant", client=client, input=f"{scene.zoho.new_grant(client=client)}\n")
    before = records()
    message = scene.refused(2, "--client-credentials", "--soid", f"ZohoCRM.{ZGID}", "--id", "1")
    assert "the token '1' is a user's" in message
    assert (records(), scene.zoho.count("credentials")) == (before, 0)


def test_login_by_device(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_DEFAULT_INTERVAL_S", 0.02)
    scene.zoho.device_interval_s = 0
    client = scene.zoho.new_client("non-browser", redirect_uris=())
    done = scene.login("--device", client=client)
    assert done.stdout == "1\n"
    assert re.search(rf"Open {scene.zoho.url}/oauth/v3/device\?user_code=\S+ on any machine, and enter", done.stderr)
    assert scene.login("--id", "1").stdout == "1\n"
    [record] = records()
    assert (record.kind, record.redirect_url) == ("device", None)
    assert scene.zoho.count("device_token") == 2


# --- Usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--device --grant", "Give one of"),
        ("--self-client x --client-credentials --soid y", "Give one of"),
        ("--client-credentials", "needs --soid"),
        ("--id 1 --client-id x", "the token's own client is used"),
        ("--self-client x --client-id y", "names the client"),
        ("--self-client x --client-secret env:Y", "names the client"),
        ("", "Give --client-id: stdin is not a terminal"),
        ("--client-id= --client-secret env:Y", "--client-id is empty"),
        ("--client-id x", "Give --client-secret env:NAME or the like"),
        ("--timeout 0", "is not in the range"),
        ("--timeout nan", "not a valid integer"),
    ],
)
def test_login_with_contradicting_options_is_refused(ring: Path, arguments: str, problem: str) -> None:
    assert problem in " ".join(usage_error("login", *arguments.split()).split())
    assert not ring.exists()


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--dc", "mars"], "the data centre is not known"),
        (["--dc", "http://example.com"], "does not begin with https"),
        (["--scope", " , "], "no scope is given"),
        (["--redirect-uri", "https://example.com/callback"], "not one of this machine"),
    ],
)
def test_login_with_invalid_option_is_refused(scene: Scene, more: list[str], problem: str) -> None:
    assert problem in scene.refused(2, *more)
    assert scene.zoho.requests == []


def test_login_with_secret_on_the_command_line_does_not_repeat_it(scene: Scene) -> None:
    message = scene.refused(2, "--client-secret", "0123456789abcdef")
    assert "not taken from the command line" in message
    assert "0123" not in message


# --- Processes ------------------------------------------------------------------------------------------------------


def assert_no_secret(scene: Scene, *shown: str) -> None:
    """Assert that no secret of the sign-in is in a text, nor in any address that Zoho has seen."""
    forms = [request.form for request in scene.zoho.requests_of("grant")]
    secrets = {form[name] for form in forms for name in ("client_secret", "code", "code_verifier") if name in form}
    secrets |= {*scene.zoho.issued, *(one.refresh_token or "" for one in records())} - {""}
    assert len(secrets) >= 4
    assert not [secret for secret in secrets for text in shown if secret in text]
    assert scene.zoho.secrets_in_urls() == []


def test_login_leaves_no_secret_in_output_logs_and_files(
    scene: Scene, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    done = scene.login()
    files = [path.read_bytes().decode("latin-1") for path in work.parent.rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert "/oauth/v2/token" in caplog.text
    assert_no_secret(scene, done.output, caplog.text, *files, *(f"{url}{page}" for url, page in scene.pages))
    # The state is in the address that the user opens, and nowhere else.
    state = scene.zoho.requests_of("authorize")[0].parameters["state"]
    assert done.output.count(state) == 1
    assert not [text for text in (caplog.text, *files) if state in text]


@pytest.mark.needs_posix_shell
def test_login_process_starts_the_browser_of_the_variable(scene: Scene, work: Path) -> None:
    """It cannot print into the output, and its page is served although the process ends."""
    script = work / "browser"
    code = (
        "import sys, urllib.request; print('noise', flush=True); "
        f"page = urllib.request.urlopen(sys.argv[1]); open({str(work / 'page')!r}, 'w').write(page.url)"
    )
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o700)
    done = run_program(*scene.arguments(scene.client), BROWSER=str(script), CLIENT_SECRET=scene.client.secrets["us"])
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert "noise" not in done.stderr
    assert (work / "page").read_text() == scene.redirect_uri.replace("/callback", "/signed-in")
    assert_no_secret(scene, done.stderr)


@pytest.mark.needs_pty
def test_login_process_with_terminal_asks_for_the_client_and_takes_a_pasted_address(scene: Scene) -> None:
    """The secret is not shown."""
    no_browser = {"BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    terminal = Terminal(*scene.arguments(None, "--no-browser"), variables=no_browser)
    terminal.answer("Client id: ", f"{scene.client.id}\n")
    terminal.answer("Client secret (empty if it has none): ", f"{scene.client.secrets['us']}\n")
    terminal.answer("paste here the address at which it ends.", "nonsense\n")
    terminal.answer("This is not the address of the running sign-in's callback.", "\n")
    [url] = re.findall(r"^http://127\S+", terminal._shown.replace("\r\n", "\n"), re.MULTILINE)
    terminal.answer("callback.", f"{callback_of(url)}\n")
    shown = terminal.wait()
    assert "Open this address in a browser:" in shown
    assert shown.endswith("\n1\n")
    assert scene.client.secrets["us"] not in shown


def callback_of(url: str) -> str:
    """Return the address that Zoho sends the browser to."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    try:
        urllib.request.build_opener(Stay).open(url)
    except urllib.error.HTTPError as redirect:
        with redirect:
            return str(redirect.headers["Location"])
    raise AssertionError(url)


@pytest.mark.needs_pty
def test_login_process_with_terminal_asks_for_the_code(scene: Scene) -> None:
    """It is not shown, and a client may have no secret."""
    client = scene.zoho.new_client("self", redirect_uris=(), needs_secret=False)
    code = scene.zoho.new_grant("ada@example.com", client)
    terminal = Terminal("login", "--grant", "--client-id", client.id, "--dc", scene.zoho.url)
    terminal.answer("Client secret (empty if it has none): ", "\n")
    terminal.answer("Code: ", f"{code}\n")
    shown = terminal.wait()
    assert shown.endswith("\n1\n")
    assert code not in shown
    assert "client_secret" not in scene.zoho.requests_of("grant")[0].form
