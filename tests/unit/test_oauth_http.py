"""Requests to Zoho and what the replies mean, against the fake server."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from fake_zoho import FakeZoho, Fault
from fake_zoho import Reply as FakeReply
from support import failure_of
from zoho_keystore._oauth import endpoints, http
from zoho_keystore._oauth.endpoints import Client
from zoho_keystore._oauth.http import Reply, get_json, post_form
from zoho_keystore.errors import (
    ClientRefusedError,
    ConfigurationError,
    KeystoreError,
    SignInError,
    SignInNeededError,
    ThrottledError,
    ZohoUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT = Client("1000.CLIENT", "client-secret-CANARY")
CODE, VERIFIER, TOKEN = "1000.code-CANARY", "verifier-CANARY", "1000.token-CANARY"


@pytest.fixture
def zoho(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeZoho]:
    monkeypatch.setattr(http, "_RETRY_PAUSE_S", 0.01)
    with FakeZoho() as zoho:
        yield zoho


def exchange(zoho: FakeZoho, code: str | None = None) -> endpoints.TokenReply:
    return endpoints.exchange_code(zoho.url, CLIENT, code or zoho.new_grant())


def refresh(zoho: FakeZoho, token: str | None = None) -> endpoints.TokenReply:
    return endpoints.refresh(zoho.url, CLIENT, token or zoho.new_refresh_token())


# --- Requests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Fault.html(502), Fault.html(200), Fault.json({}), Fault.json([1]), Fault.text(""), Fault.closed(), Fault.cut()],
)
def test_refresh_after_broken_reply_is_retried_once(zoho: FakeZoho, fault: Fault) -> None:
    zoho.reply_next(fault)
    assert refresh(zoho).access_token == zoho.issued[-1]
    zoho.reply_next(fault, times=2)
    with pytest.raises(ZohoUnreachableError, match=r"127\.0\.0\.1:\d+ (gave|cannot)"):
        refresh(zoho)
    assert zoho.count("refresh") == 4


@pytest.mark.parametrize("fault", [Fault.html(502), Fault.lost()])
def test_exchange_of_code_is_not_retried(zoho: FakeZoho, fault: Fault) -> None:
    """The code works once."""
    zoho.reply_next(fault)
    with pytest.raises(ZohoUnreachableError):
        exchange(zoho)
    assert zoho.count("grant") == 1


@pytest.mark.parametrize("fault", [Fault.hang(), Fault.drip(0.05)])
def test_request_with_slow_reply_ends_in_time(zoho: FakeZoho, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Also where no single read takes long; with the retry, if there is time for one."""
    monkeypatch.setattr(http, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(http, "ONCE_TIMEOUT_S", 0.3)
    for ask in (refresh, exchange):
        zoho.reply_next(fault, times=2)
        began = time.monotonic()
        with pytest.raises(ZohoUnreachableError, match="did not answer in time"):
            ask(zoho)
        assert 0.2 < time.monotonic() - began < 1.5
        zoho.clear_faults()
    assert zoho.count("refresh") == zoho.count("grant") == 1


@pytest.mark.parametrize("status", [302, 307, 308])
def test_request_follows_no_redirect(zoho: FakeZoho, status: int) -> None:
    """The form holds the client secret."""
    with FakeZoho() as other:
        zoho.reply_next(Fault.redirect(other.token_url, status), times=2)
        with pytest.raises(ZohoUnreachableError, match=rf"HTTP {status}"):
            refresh(zoho)
        assert other.requests == []


def test_redirect_with_tokens_in_its_body_is_no_answer(zoho: FakeZoho) -> None:
    zoho.reply_next(Fault.json({"access_token": "x"}, 302), times=2)
    with pytest.raises(ZohoUnreachableError, match="HTTP 302"):
        refresh(zoho)


@pytest.mark.parametrize("compressed", [False, True])
def test_request_with_huge_reply_is_given_up(zoho: FakeZoho, compressed: bool) -> None:  # noqa: FBT001 - a parameter
    zoho.reply_next(Fault.huge(8, compressed=compressed), times=2)
    with pytest.raises(ZohoUnreachableError, match="sent more than 256 KiB"):
        refresh(zoho)


def test_reply_that_cannot_be_decompressed_is_not_understood(zoho: FakeZoho) -> None:
    zoho.reply_next(Fault(FakeReply(content=b"no gzip", headers=(("Content-Encoding", "gzip"),))), times=2)
    with pytest.raises(ZohoUnreachableError, match="ContentDecodingError"):
        refresh(zoho)


def test_reply_of_nested_json_is_not_understood(zoho: FakeZoho) -> None:
    zoho.reply_next(Fault.text("[" * 200_000), times=2)
    with pytest.raises(ZohoUnreachableError, match="gave no answer of Zoho's"):
        refresh(zoho)


def test_request_adds_no_credentials_of_netrc(zoho: FakeZoho, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password netrc-CANARY\n")
    monkeypatch.setenv("NETRC", str(netrc))
    refresh(zoho)
    get_json(f"{zoho.url}/crm/v8/org", "token")
    assert "authorization" not in zoho.requests_of("refresh")[0].headers
    assert zoho.requests_of("org")[0].headers["authorization"] == "Zoho-oauthtoken token"


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_request_to_this_machine_goes_through_no_proxy(
    zoho: FakeZoho, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """By http, the proxy and all on the way to it would read the client secret."""
    monkeypatch.setenv("no_proxy", "")
    with FakeZoho() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        refresh(zoho)
        assert proxy.requests == []


def test_request_to_closed_port_or_without_tls_is_unreachable(zoho: FakeZoho) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        reply = post_form(f"http://127.0.0.1:{unused.getsockname()[1]}/", {})
    assert "cannot be reached" in str(reply)
    reply = post_form(zoho.url.replace("http:", "https:"), {})
    assert "has no certificate that this machine trusts" in str(reply)


def test_requests_are_imported_only_for_a_request() -> None:
    code = (
        "import sys; import zoho_keystore._cli.login, zoho_keystore._operations.sign_in; "
        "print(sorted({'requests', 'urllib3', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_request_without_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(ConfigurationError, match=r"requests is not installed.*zoho_keystore\[oauth\]"):
        endpoints.refresh("http://localhost", CLIENT, TOKEN)


def test_no_secret_in_logs_reprs_or_errors(zoho: FakeZoho, caplog: pytest.LogCaptureFixture) -> None:
    """Also in the frames of the traceback, and in what requests and urllib3 log."""
    caplog.set_level(logging.DEBUG)
    issued = exchange(zoho)
    texts = [repr(issued), repr(CLIENT), repr(Reply(200, {"access_token": "CANARY"}))]
    zoho.reply_next(Fault.error("invalid_client"), times=99)
    for call in (
        lambda: endpoints.exchange_code(zoho.url, CLIENT, CODE, redirect_uri="u", verifier=VERIFIER),
        lambda: refresh(zoho, TOKEN),
        lambda: endpoints.client_credentials(zoho.url, CLIENT, scope="s", soid="o"),
        lambda: endpoints.user_name(zoho.url + "0", TOKEN),
        lambda: endpoints.revoke(zoho.url + "0", TOKEN),
    ):
        error, text = failure_of(call, KeystoreError)
        texts.append(text)
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals["__name__"].startswith("zoho_keystore."):
                texts += map(repr, trace.tb_frame.f_locals.values())
            trace = trace.tb_next
    shown = "\n".join([*texts, caplog.text])
    assert "/oauth/v2/token" in caplog.text
    assert "CANARY" not in shown
    assert issued.access_token not in shown
    assert zoho.secrets_in_urls() == []


# --- Replies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("invalid_code", SignInNeededError, "does not accept the refresh token any more"),
        ("invalid_client", ClientRefusedError, "does not know the client there.*data centre"),
        ("invalid_client_secret", ClientRefusedError, "does not accept the client secret"),
        ("invalid_redirect_uri", ClientRefusedError, "does not accept the redirect URI"),
        ("invalid_scope", SignInError, "one of the scopes"),
        ("missing_org_info", SignInError, "--soid"),
        ("access_denied", SignInError, "too many were made"),
        ("Access Denied", ThrottledError, "signing in again does not help"),
        ("surprise", ZohoUnreachableError, r"not understood \(surprise, HTTP"),
        ("<b>", ZohoUnreachableError, r"not understood \(HTTP"),
    ],
)
def test_error_is_told_by_the_body(
    zoho: FakeZoho, status: int, name: str, kind: type[KeystoreError], problem: str
) -> None:
    zoho.reply_next(Fault.error(name, status))
    with pytest.raises(kind, match=problem):
        refresh(zoho)
    assert zoho.count("refresh") == 1


def test_throttle_is_known_by_its_description(zoho: FakeZoho) -> None:
    zoho.reply_next(Fault.error("general_error", 400, "Too Many Requests"))
    with pytest.raises(ThrottledError):
        refresh(zoho)


def test_refused_code_is_a_failed_sign_in(zoho: FakeZoho) -> None:
    with pytest.raises(SignInError, match="does not accept the code") as caught:
        exchange(zoho, CODE)
    assert not isinstance(caught.value, SignInNeededError)


@pytest.mark.parametrize("token", [None, "", 7])
def test_reply_without_refresh_token_keeps_nothing(zoho: FakeZoho, token: Any) -> None:
    zoho.alter_tokens = {"refresh_token": token}
    with pytest.raises(SignInError, match="no refresh token; nothing was kept"):
        exchange(zoho)


@pytest.mark.parametrize(
    "payload", [{"access_token": "x", "error": "invalid_code"}, {"access_token": ""}, {"access_token": 7}, {"a": 1}]
)
def test_reply_without_access_token_is_an_error(zoho: FakeZoho, payload: Any) -> None:
    zoho.reply_next(Fault.json(payload))
    with pytest.raises(KeystoreError):
        refresh(zoho)


@pytest.mark.parametrize(
    ("altered", "life_s"),
    [
        ({}, 3600),
        ({"expires_in": 60}, 60),
        ({"expires_in": "60"}, 60),
        ({"expires_in": 3_600_000, "expires_in_sec": 3600}, 3600),
        *(({"expires_in": value}, 3600) for value in (None, -1, True, 1.5, "9" * 30, "٣")),
    ],
)
def test_access_token_life_is_in_seconds_or_milliseconds(zoho: FakeZoho, altered: Any, life_s: int) -> None:
    zoho.alter_tokens = altered
    now_s = time.time()
    assert now_s + life_s - 1 <= refresh(zoho).expires_at_ms / 1000 <= time.time() + life_s


def test_reply_with_scope_and_server_is_normalized(zoho: FakeZoho) -> None:
    zoho.alter_tokens = {"scope": "ZohoCRM.org.READ ZohoCRM.users.READ,x", "api_domain": "https://www.zohoapis.eu/"}
    issued = exchange(zoho)
    assert issued.scope == "ZohoCRM.org.READ,ZohoCRM.users.READ,x"
    assert issued.api_domain == "https://www.zohoapis.eu"
    zoho.alter_tokens = {"scope": 7, "api_domain": 7}
    assert (exchange(zoho).scope, refresh(zoho).api_domain) == (None, None)


def test_client_without_secret_sends_none(zoho: FakeZoho) -> None:
    with suppress(ClientRefusedError):
        endpoints.refresh(zoho.url, Client("1000.MOBILE"), "r")
    assert zoho.requests[0].form == {"grant_type": "refresh_token", "client_id": "1000.MOBILE", "refresh_token": "r"}


def test_client_credentials_have_no_refresh_token(zoho: FakeZoho) -> None:
    issued = endpoints.client_credentials(zoho.url, CLIENT, scope="ZohoCRM.org.READ", soid="ZohoCRM.60001234567")
    assert (issued.access_token, issued.refresh_token) == (zoho.issued[0], None)


def test_revoke_tells_known_from_unknown_tokens(zoho: FakeZoho) -> None:
    token = zoho.new_refresh_token()
    assert endpoints.revoke(zoho.url, token)
    assert not endpoints.revoke(zoho.url, token)
    assert [request.form for request in zoho.requests] == [{"token": token}] * 2
    zoho.reply_next(Fault.error("invalid_code", 200), to="revoke")
    assert not endpoints.revoke(zoho.url, token)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.error("Access Denied", 400), ThrottledError),
        (Fault.error("invalid_client", 200), ClientRefusedError),
        (Fault.html(400), ZohoUnreachableError),
        (Fault.json({"status": "?"}, 200), ZohoUnreachableError),
    ],
)
def test_revoke_with_unclear_answer_is_an_error(zoho: FakeZoho, fault: Fault, kind: type[KeystoreError]) -> None:
    """The token may be alive, so its record must not be deleted."""
    zoho.reply_next(fault, times=2, to="revoke")
    with pytest.raises(kind):
        endpoints.revoke(zoho.url, "token")


def test_user_name_is_that_of_the_sdk(zoho: FakeZoho) -> None:
    token = exchange(zoho, zoho.new_grant("eve@example.com")).access_token
    assert endpoints.user_name(zoho.url, token) == "eve@example.com:60001234567"
    assert [request.target for request in zoho.requests[-2:]] == ["/crm/v8/users?type=CurrentUser", "/crm/v8/org"]


def test_user_name_without_answer_is_none_or_an_error(zoho: FakeZoho) -> None:
    token = exchange(zoho).access_token
    assert endpoints.user_name(zoho.url, "wrong") is None
    assert zoho.count("org") == 0
    zoho.reply_next(Fault.crm_error("OAUTH_SCOPE_MISMATCH"), to="org")
    assert endpoints.user_name(zoho.url, token) is None
    zoho.reply_next(Fault.html(), times=2, to="org")
    with pytest.raises(ZohoUnreachableError):
        endpoints.user_name(zoho.url, token)
