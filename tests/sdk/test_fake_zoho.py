from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, IncompleteRead, RemoteDisconnected
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest

from fake_zoho import (
    ACCESS_TOKENS_KEPT,
    DEFAULT_REDIRECT,
    DEFAULT_USER,
    LIMIT,
    LIMIT_WINDOW_S,
    REFRESH_TOKENS_KEPT,
    ZGID,
    Callback,
    Client,
    FakeZoho,
    Fault,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
ZOHO_TOKEN = re.compile(r"1000\.[0-9a-f]{32}\.[0-9a-f]{32}")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ANY = {"client_id": "an id", "client_secret": "a secret"}
SCOPE = "ZohoCRM.users.READ,ZohoCRM.org.READ"
EVE = "eve@example.com"


@dataclass(frozen=True)
class Answer:
    """An answer, with a look into its JSON."""

    status: int
    content_type: str | None
    address: str
    text: str

    def __getitem__(self, key: str) -> Any:
        return json.loads(self.text)[key]

    @property
    def json(self) -> Any:
        """The content."""
        return json.loads(self.text)

    @property
    def callback(self) -> dict[str, str]:
        """The parameters of the redirect."""
        return dict(parse_qsl(urlsplit(self.address).query))


def connect(url: str) -> HTTPConnection:
    return HTTPConnection(urlsplit(url).netloc, timeout=20)


def ask(url: str, method: str = "GET", body: str = "", headers: dict[str, str] | None = None) -> Answer:
    connection = connect(url)
    try:
        return ask_on(connection, method, url.removeprefix(f"http://{urlsplit(url).netloc}"), body, headers)
    finally:
        connection.close()


def ask_on(
    connection: HTTPConnection, method: str, target: str, body: str = "", headers: dict[str, str] | None = None
) -> Answer:
    connection.request(method, target, body, headers or {})
    response = connection.getresponse()
    address = response.getheader("Location", "")
    return Answer(response.status, response.getheader("Content-Type"), address, response.read().decode("latin-1"))


def post(url: str, **form: str) -> Answer:
    return ask(url, "POST", urlencode(form), FORM)


def credentials(client: Client, location: str = "us") -> dict[str, str]:
    return {"client_id": client.id, "client_secret": client.secrets[location]}


def exchange(zoho: FakeZoho, code: str, client: Client | None = None, location: str = "us", /, **more: str) -> Answer:
    form = {"redirect_uri": DEFAULT_REDIRECT, "grant_type": "authorization_code", "code": code}
    who = credentials(client, location) if client else ANY
    return post(zoho.accounts_url(location) + "/oauth/v2/token", **{**who, **form, **more})


def refresh(zoho: FakeZoho, token: str, client: Client | None = None, location: str = "us", /, **more: str) -> Answer:
    who = credentials(client, location) if client else ANY
    form = {**who, "grant_type": "refresh_token", "refresh_token": token, **more}
    return post(zoho.accounts_url(location) + "/oauth/v2/token", **form)


def authorize(zoho: FakeZoho, client: Client, location: str = "us", **changes: str) -> Answer:
    parameters = {
        "client_id": client.id,
        "response_type": "code",
        "redirect_uri": DEFAULT_REDIRECT,
        "scope": SCOPE,
        "access_type": "offline",
        "prompt": "consent",
        "state": "a state",
    }
    return ask(zoho.accounts_url(location) + "/oauth/v2/auth?" + urlencode({**parameters, **changes}))


def crm(zoho: FakeZoho, resource: str, token: str, method: str = "GET", scheme: str = "Zoho-oauthtoken") -> Answer:
    return ask(f"{zoho.api_url('us')}/crm/{resource}", method, headers={"Authorization": f"{scheme} {token}"})


def start_device(zoho: FakeZoho, client: Client, **changes: str) -> Answer:
    form = {"client_id": client.id, "grant_type": "device_request", "scope": SCOPE, "access_type": "offline"}
    return post(zoho.url + "/oauth/v3/device/code", **{**form, **changes})


def poll_device(zoho: FakeZoho, client: Client, code: str, location: str = "us", **changes: str) -> Answer:
    form = {**credentials(client, location), "grant_type": "device_token", "code": code}
    return post(zoho.accounts_url(location) + "/oauth/v3/device/token", **{**form, **changes})


def send_raw(zoho: FakeZoho, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", urlsplit(zoho.url).port or 0), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def wait_until_asked(zoho: FakeZoho, kind: str, times: int = 1) -> None:
    while zoho.count(kind) < times:
        time.sleep(0.005)


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """One data centre, whose time stands still."""
    with FakeZoho(clock=lambda: 1000.0) as serving:
        yield serving


@pytest.fixture
def two() -> Iterator[FakeZoho]:
    """Two data centres, in which consent is given at once; Eve lives in the second."""
    with FakeZoho(locations=("us", "eu"), consent="accept") as serving:
        serving.new_user(EVE, "eu")
        yield serving


# Tokens without a sign-in


def test_grant_is_exchanged_for_tokens_that_look_like_zohos(zoho: FakeZoho) -> None:
    answer = exchange(zoho, zoho.new_grant())
    tokens = answer.json
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert ZOHO_TOKEN.fullmatch(tokens.pop("access_token"))
    assert ZOHO_TOKEN.fullmatch(tokens.pop("refresh_token"))
    assert tokens == {"expires_in": 3600, "api_domain": zoho.url, "token_type": "Bearer"}


def test_grant_used_unknown_or_expired_is_invalid_code(zoho: FakeZoho) -> None:
    used, expired = zoho.new_grant(), zoho.new_grant(life_s=180)
    exchange(zoho, used)
    zoho.advance(180)
    for code in (used, expired, "1000.unknown"):
        answer = exchange(zoho, code)
        assert (answer.status, answer.json) == (200, {"error": "invalid_code"})


def test_refresh_token_of_grant_gives_new_access_tokens(zoho: FakeZoho) -> None:
    granted = exchange(zoho, zoho.new_grant())
    answers = [refresh(zoho, granted["refresh_token"]) for _ in range(2)]
    assert zoho.issued == [granted["access_token"], *(answer["access_token"] for answer in answers)]
    assert len(set(zoho.issued)) == 3
    assert all("refresh_token" not in answer.json for answer in answers)


def test_client_without_secret_is_invalid_and_grant_stays(zoho: FakeZoho) -> None:
    grant = zoho.new_grant()
    assert exchange(zoho, grant, client_secret="")["error"] == "invalid_client"
    assert "access_token" in exchange(zoho, grant).json


def test_revoke_ends_refresh_and_access_tokens(zoho: FakeZoho) -> None:
    token = zoho.new_refresh_token()
    access_token = refresh(zoho, token)["access_token"]
    assert post(zoho.token_url + "/revoke", token=token).json == {"status": "success"}
    assert post(zoho.token_url + "/revoke", token=token).status == 400
    assert refresh(zoho, token)["error"] == "invalid_code"
    assert crm(zoho, "v8/Leads", access_token).status == 401
    assert zoho.revoked == [token]


def test_limit_denies_11th_access_token_until_window_passes(zoho: FakeZoho) -> None:
    token = zoho.new_refresh_token()
    assert all("access_token" in refresh(zoho, token).json for _ in range(LIMIT + 1))  # off by default
    zoho.enforce_limit = True
    token = exchange(zoho, zoho.new_grant())["refresh_token"]
    assert all("access_token" in refresh(zoho, token).json for _ in range(LIMIT - 1))
    denied = refresh(zoho, token)
    assert (denied.status, denied["error"]) == (200, "Access Denied")
    assert "too many requests" in denied["error_description"]
    assert "access_token" in refresh(zoho, zoho.new_refresh_token()).json
    zoho.advance(LIMIT_WINDOW_S)
    assert "access_token" in refresh(zoho, token).json


def test_token_reply_has_milliseconds_scope_and_altered_fields_on_demand(zoho: FakeZoho) -> None:
    zoho.expires_in_ms = zoho.scope_in_reply = True
    zoho.alter_tokens = {"api_domain": "https://forged.example", "token_type": None}
    tokens = refresh(zoho, zoho.new_refresh_token(scope=SCOPE)).json
    del tokens["access_token"]
    assert tokens == {
        "expires_in": 3_600_000,
        "expires_in_sec": 3600,
        "scope": "ZohoCRM.users.READ ZohoCRM.org.READ",
        "api_domain": "https://forged.example",
    }


def test_access_token_lives_as_long_as_it_was_told(zoho: FakeZoho) -> None:
    zoho.token_life_s = 4
    first = refresh(zoho, zoho.new_refresh_token())
    zoho.token_life_s = 60
    second = refresh(zoho, zoho.new_refresh_token())
    assert (first["expires_in"], second["expires_in"]) == (4, 60)
    assert crm(zoho, "v8/org", first["access_token"]).status == 200
    zoho.advance(4)
    assert crm(zoho, "v8/org", first["access_token"]).status == 401
    assert crm(zoho, "v8/org", second["access_token"]).status == 200
    zoho.expire_access_tokens()
    assert crm(zoho, "v8/org", second["access_token"]).status == 401


# Clients


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"client_id": "unknown"}, "invalid_client"),
        ({"client_secret": "wrong"}, "invalid_client_secret"),
        ({"client_secret": ""}, "invalid_client_secret"),
        ({"redirect_uri": "http://localhost:1/other"}, "invalid_redirect_uri"),
        ({"code": "1000.wrong"}, "invalid_code"),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 401])
def test_exchange_with_wrong_field_is_its_error_with_the_status_set(
    two: FakeZoho, change: dict[str, str], error: str, status: int
) -> None:
    two.error_status = {error: status}
    client = two.new_client()
    code = authorize(two, client).callback["code"]
    answer = exchange(two, code, client, **change)
    assert (answer.status, answer.json) == (status, {"error": error})
    two.error_status = status
    assert refresh(two, "1000.unknown", client).status == status


def test_secret_differs_by_location_and_client_may_be_unknown_there(two: FakeZoho) -> None:
    client, only_us = two.new_client(), two.new_client(locations=["us"])
    assert refresh(two, "x", client, "eu", client_secret=client.secrets["us"])["error"] == "invalid_client_secret"
    assert refresh(two, "x", client, "eu")["error"] == "invalid_code"
    answer = post(two.accounts_url("eu") + "/oauth/v2/token", **credentials(only_us), grant_type="refresh_token")
    assert answer["error"] == "invalid_client"
    assert "Invalid Client" in authorize(two, only_us, "eu").text


def test_tokens_and_codes_of_another_client_or_location_are_invalid(two: FakeZoho) -> None:
    client, other = two.new_client(), two.new_client()
    token = two.new_refresh_token(client=client)
    assert "access_token" in refresh(two, token, client).json
    assert refresh(two, token, other)["error"] == "invalid_code"
    assert refresh(two, token, client, "eu")["error"] == "invalid_code"
    assert exchange(two, two.new_grant(client=client), other)["error"] == "invalid_code"
    assert exchange(two, two.new_grant(EVE, client), client)["error"] == "invalid_code"
    assert "access_token" in exchange(two, two.new_grant(EVE, client), client, "eu").json


def test_flow_of_another_kind_of_client_or_unknown_is_refused(two: FakeZoho) -> None:
    web, device, own = two.new_client(), two.new_client("non-browser"), two.new_client("self")
    assert exchange(two, two.new_grant(), device)["error"] == "invalid_client"
    assert "access_token" in exchange(two, two.new_grant(), own).json
    assert post(two.token_url, **credentials(web), grant_type="client_credentials")["error"] == "invalid_client"
    assert start_device(two, web)["error"] == "invalid_client"
    assert start_device(two, device, scope="nonsense")["error"] == "invalid_scope"
    assert start_device(two, device, grant_type="nonsense")["error"] == "invalid_grant_type"
    assert post(two.token_url, grant_type="password").json == {"error": "unsupported_grant_type"}
    assert "Invalid Client" in authorize(two, own).text


def test_secret_is_needed_or_not_but_a_wrong_one_is_refused(zoho: FakeZoho) -> None:
    client = zoho.new_client("mobile", needs_secret=False)
    token = zoho.new_refresh_token(client=client)
    assert "access_token" in refresh(zoho, token, client, client_secret="").json
    assert refresh(zoho, token, client, client_secret="wrong")["error"] == "invalid_client_secret"


def test_21st_refresh_token_of_user_and_client_evicts_oldest(zoho: FakeZoho) -> None:
    client, other = zoho.new_client(), zoho.new_client()
    of_other = [zoho.new_refresh_token(client=other), zoho.new_refresh_token("bob@example.com", client)]
    tokens = [zoho.new_refresh_token(client=client) for _ in range(REFRESH_TOKENS_KEPT + 1)]
    answers = [refresh(zoho, token, client).json for token in tokens]
    assert ["error" in answer for answer in answers] == [True] + [False] * REFRESH_TOKENS_KEPT
    assert "access_token" in refresh(zoho, of_other[0], other).json
    assert "access_token" in refresh(zoho, of_other[1], client).json


def test_16th_live_access_token_evicts_oldest(zoho: FakeZoho) -> None:
    client = zoho.new_client()
    token = zoho.new_refresh_token(client=client)
    tokens = [refresh(zoho, token, client)["access_token"] for _ in range(ACCESS_TOKENS_KEPT + 1)]
    assert [crm(zoho, "v8/Leads", tokens[index]).status for index in (0, 1, -1)] == [401, 200, 200]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({}, None),
        ({"scope": "nonsense"}, "invalid_scope"),
        ({"soid": ""}, "missing_org_info"),
        ({"soid": "ZohoCRM.1"}, "missing_org_info"),
    ],
)
def test_client_credentials_give_access_token_only(zoho: FakeZoho, change: dict[str, str], error: str | None) -> None:
    client = zoho.new_client("self")
    form = {**credentials(client), "grant_type": "client_credentials", "scope": SCOPE, "soid": f"ZohoCRM.{ZGID}"}
    answer = post(zoho.token_url, **{**form, **change})
    assert answer.json.get("error") == error
    assert error or crm(zoho, "v8/org", answer["access_token"]).status == 200
    assert "refresh_token" not in answer.json
    assert zoho.count("credentials") == 1


def test_serverinfo_lists_accounts_servers(two: FakeZoho) -> None:
    locations = ask(two.url + "/oauth/serverinfo")["locations"]
    assert locations == {"us": two.accounts_url("us"), "eu": two.accounts_url("eu")}
    assert locations["us"] != locations["eu"]


# Consent and its redirect


def test_accept_redirects_with_code_for_this_client(two: FakeZoho) -> None:
    client = two.new_client()
    answer = authorize(two, client)
    assert answer.status == 302
    assert answer.address.startswith(DEFAULT_REDIRECT + "?state=a+state&code=1000.")
    assert list(answer.callback) == ["state", "code", "location", "accounts-server"]
    assert answer.callback["accounts-server"] == two.url
    tokens = exchange(two, answer.callback["code"], client)
    assert "refresh_token" in tokens.json
    assert exchange(two, answer.callback["code"], client)["error"] == "invalid_code"


def test_user_of_another_location_gets_code_for_there(two: FakeZoho) -> None:
    two.browser_user = EVE
    client = two.new_client()
    callback = authorize(two, client).callback
    assert (callback["location"], callback["accounts-server"]) == ("eu", two.accounts_url("eu"))
    tokens = exchange(two, callback["code"], client, "eu")
    assert tokens["api_domain"] == two.api_url("eu")
    assert crm(two, "v8/org", tokens["access_token"]).status == 401  # at the API of "us"
    answer = authorize(two, two.new_client(locations=["us"]))
    assert (answer.status, answer.address) == (400, "")


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"client_id": "<unknown>"}, "Invalid Client"),
        ({"response_type": "token"}, "Invalid Response Type"),
        ({"redirect_uri": "http://localhost:9/"}, "Invalid Redirect Uri"),
        ({"redirect_uri": DEFAULT_REDIRECT + "/"}, "Invalid Redirect Uri"),
        ({"scope": SCOPE.replace(",", " ")}, "Invalid OAuth Scope"),
        ({"scope": "ZohoCRM.nonsense.READ"}, "Invalid OAuth Scope"),
        ({"scope": ""}, "Invalid OAuth Scope"),
    ],
)
def test_wrong_request_gets_page_and_no_redirect(two: FakeZoho, change: dict[str, str], title: str) -> None:
    answer = authorize(two, two.new_client(), **change)
    assert (answer.status, answer.content_type, answer.address) == (400, "text/html; charset=utf-8", "")
    assert title in answer.text


def test_code_expires_after_a_minute(two: FakeZoho) -> None:
    client = two.new_client()
    codes = [authorize(two, client).callback["code"] for _ in range(2)]
    two.advance(59)
    assert "access_token" in exchange(two, codes[0], client).json
    two.advance(1)
    assert exchange(two, codes[1], client)["error"] == "invalid_code"


@pytest.mark.parametrize("method", ["S256", "plain"])
def test_pkce_verifier_is_checked_or_ignored(two: FakeZoho, method: str) -> None:
    client, verifier = two.new_client("mobile"), "v" * 43
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    challenge = {"code_challenge": digest if method == "S256" else verifier, "code_challenge_method": method}
    results = []
    for sent in (verifier, "w" * 43):
        code = authorize(two, client, **challenge).callback["code"]
        results.append(exchange(two, code, client, code_verifier=sent).json.get("error"))
    assert results == [None, "invalid_code"]
    assert authorize(two, client).status == 400
    two.check_pkce = False
    assert authorize(two, client).status == 302
    code = authorize(two, client, **challenge).callback["code"]
    assert "access_token" in exchange(two, code, client, code_verifier="wrong").json


def test_refresh_token_comes_for_offline_access_and_the_first_time_or_with_consent(two: FakeZoho) -> None:
    client = two.new_client()

    def has_refresh_token(**changes: str) -> bool:
        code = authorize(two, client, **changes).callback["code"]
        return "refresh_token" in exchange(two, code, client).json

    assert not has_refresh_token(access_type="online")
    assert not has_refresh_token(prompt="")
    assert has_refresh_token()
    client = two.new_client()
    assert has_refresh_token(prompt="")


def test_user_can_grant_less_than_asked(two: FakeZoho) -> None:
    two.granted_scope, two.scope_in_reply = "ZohoCRM.org.READ", True
    client = two.new_client()
    tokens = exchange(two, authorize(two, client).callback["code"], client)
    assert tokens["scope"] == "ZohoCRM.org.READ"
    assert crm(two, "v8/org", tokens["access_token"]).status == 200
    assert crm(two, "v8/users", tokens["access_token"])["code"] == "OAUTH_SCOPE_MISMATCH"


@pytest.mark.parametrize(
    ("callback", "names"),
    [
        (Callback(without=("state",)), ["code", "location", "accounts-server"]),
        (Callback(without=("location", "accounts-server")), ["state", "code"]),
        (Callback(add=(("code", "forged"),)), ["state", "code", "location", "accounts-server", "code"]),
        (Callback(error="access_denied"), ["state", "error"]),
    ],
)
def test_callback_can_be_changed(two: FakeZoho, callback: Callback, names: list[str]) -> None:
    two.callback = callback
    query = urlsplit(authorize(two, two.new_client()).address).query
    assert [name for name, _ in parse_qsl(query)] == names


def test_callback_can_be_forged_and_end_with_ampersand(two: FakeZoho) -> None:
    forged = {"state": "forged", "accounts-server": "https://forged.example"}
    two.callback = Callback(replace=forged, trailing_ampersand=True)
    client = two.new_client(redirect_uris=["http://localhost:1/?a=1"])
    answer = authorize(two, client, redirect_uri="http://localhost:1/?a=1")
    assert answer.address.startswith("http://localhost:1/?a=1&state=forged&code=")
    assert answer.address.endswith("&accounts-server=https%3A%2F%2Fforged.example&")


def test_reject_redirects_with_access_denied(two: FakeZoho) -> None:
    two.consent = "reject"
    assert authorize(two, two.new_client()).callback == {"state": "a state", "error": "access_denied"}


@pytest.mark.parametrize(("choice", "name"), [("accept", "code"), ("reject", "error")])
def test_page_asks_once_and_its_buttons_decide(zoho: FakeZoho, choice: str, name: str) -> None:
    zoho.browser_user = "<script>@example.com"
    page = authorize(zoho, zoho.new_client())
    assert (page.status, page.address, "<script>" in page.text) == (200, "", False)
    (action,) = re.findall(r'action="([^"]+)"', page.text)
    (ticket,) = re.findall(r'name="ticket" value="([^"]+)"', page.text)
    button = f'<button type="submit" id="{choice}" name="choice" value="{choice}">{choice.title()}</button>'
    assert button in page.text
    assert name in post(zoho.url + action, ticket=ticket, choice=choice).callback
    assert post(zoho.url + action, ticket=ticket, choice=choice).status == 400


# Devices


def test_device_polls_until_it_is_approved(zoho: FakeZoho) -> None:
    client = zoho.new_client("non-browser")
    started = start_device(zoho, client)
    assert (started["interval"], started["expires_in"]) == (30_000, 300_000)
    code = started["device_code"]
    assert poll_device(zoho, zoho.new_client("non-browser"), code)["error"] == "invalid_code"
    assert poll_device(zoho, client, code)["error"] == "slow_down"
    zoho.advance(30)
    assert poll_device(zoho, client, code)["error"] == "authorization_pending"
    zoho.approve_device(started["user_code"])
    zoho.advance(29)
    assert poll_device(zoho, client, code)["error"] == "slow_down"
    zoho.advance(30)
    tokens = poll_device(zoho, client, code).json
    assert "access_token" in refresh(zoho, tokens["refresh_token"], client).json
    assert crm(zoho, "v8/org", tokens["access_token"]).status == 200
    assert poll_device(zoho, client, code)["error"] == "invalid_code"
    with pytest.raises(LookupError):
        zoho.approve_device("unknown")


def test_device_code_expires(zoho: FakeZoho) -> None:
    zoho.device_unit, zoho.device_life_s, zoho.error_status = "s", 60, 400
    client = zoho.new_client("non-browser")
    started = start_device(zoho, client)
    assert (started["interval"], started["expires_in"]) == (30, 60)
    zoho.advance(60)
    answer = poll_device(zoho, client, started["device_code"])
    assert (answer.status, answer["error"]) == (400, "expired")


@pytest.mark.parametrize("field", ["user_location", "dc"])
def test_device_of_user_elsewhere_is_sent_there(two: FakeZoho, field: Any) -> None:
    two.browser_user, two.other_dc_field = EVE, field
    client = two.new_client("non-browser")
    code = start_device(two, client)["device_code"]
    two.advance(30)
    assert poll_device(two, client, code).json == {"error": "other_dc", field: "eu"}
    assert poll_device(two, client, code, "eu")["api_domain"] == two.api_url("eu")


def test_device_page_takes_code_and_choice(zoho: FakeZoho) -> None:
    client, zoho.device_interval_s = zoho.new_client("non-browser"), 0
    for choice, outcome in (("accept", "access_token"), ("reject", "error")):
        started = start_device(zoho, client)
        page = ask(started["verification_uri_complete"])
        assert f'value="{started["user_code"]}"' in page.text
        form = {"user_code": started["user_code"].lower(), "choice": choice}
        assert post(started["verification_url"], **form).status == 200
        assert outcome in poll_device(zoho, client, started["device_code"]).json
    assert post(started["verification_url"], user_code="unknown", choice="accept").status == 400
    zoho.reject_device((started := start_device(zoho, client))["user_code"])
    assert poll_device(zoho, client, started["device_code"])["error"] == "access_denied"


# CRM


@pytest.mark.parametrize("version", ["v2", "v5", "v6", "v7", "v8"])
def test_users_and_org_answer_what_the_sdk_asks_for(zoho: FakeZoho, version: str) -> None:
    token = exchange(zoho, zoho.new_grant("bob@example.com"))["access_token"]
    users = crm(zoho, f"{version}/users?type=CurrentUser", token)
    assert (users.status, users.content_type) == (200, "application/json")
    assert [user["email"] for user in users["users"]] == ["bob@example.com"]
    assert users["info"]["count"] == 1
    assert [entry["zgid"] for entry in crm(zoho, f"{version}/org", token)["org"]] == [ZGID]


def test_users_differ_and_keep_their_ids(zoho: FakeZoho) -> None:
    tokens = [refresh(zoho, zoho.new_refresh_token(user))["access_token"] for user in (DEFAULT_USER, EVE) * 2]
    ada, eve, ada_again, eve_again = (crm(zoho, "v8/users", token)["users"][0]["id"] for token in tokens)
    assert (ada, eve) == (ada_again, eve_again)
    assert ada != eve


@pytest.mark.parametrize("scheme", ["Bearer", ""])
@pytest.mark.parametrize("code", ["INVALID_TOKEN", "INVALID_OAUTHTOKEN", "AUTHENTICATION_FAILURE"])
def test_invalid_token_or_scheme_is_401_with_the_code_set(zoho: FakeZoho, scheme: str, code: str) -> None:
    zoho.unauthorized_code = code
    token = refresh(zoho, zoho.new_refresh_token())["access_token"]
    for answer in (crm(zoho, "v8/Leads", token, scheme=scheme), crm(zoho, "v8/users", "1000.unknown")):
        assert (answer.status, answer["code"], answer["status"]) == (401, code, "error")


def test_leads_can_be_read_and_added_with_their_scope(zoho: FakeZoho) -> None:
    token = refresh(zoho, zoho.new_refresh_token(scope="ZohoCRM.modules.ALL"))["access_token"]
    assert crm(zoho, "v8/Leads", token)["data"][0]["Last_Name"] == "Lovelace"
    assert crm(zoho, "v8/Leads", token, "POST").status == 201
    assert crm(zoho, "v8/users", token, "POST").status == 404
    answer = crm(zoho, "v8/org", token)
    assert (answer.status, answer["code"]) == (401, "OAUTH_SCOPE_MISMATCH")


def test_separate_api_serves_each_part_on_its_port_only() -> None:
    with FakeZoho(separate_api=True) as zoho:
        tokens = refresh(zoho, zoho.new_refresh_token())
        assert tokens["api_domain"] == zoho.api_url("us") != zoho.url
        assert crm(zoho, "v8/org", tokens["access_token"]).status == 200
        assert ask(zoho.url + "/crm/v8/org").status == post(zoho.api_url("us") + "/oauth/v2/token").status == 404
        assert (zoho.count("org"), zoho.count("other")) == (1, 2)


# Faults


def test_fail_next_keeps_grant(zoho: FakeZoho) -> None:
    grant = zoho.new_grant()
    zoho.fail_next(2)
    answers = [exchange(zoho, grant) for _ in range(2)]
    assert [(answer.status, answer["error"]) for answer in answers] == [(500, "internal_error")] * 2
    assert "access_token" in exchange(zoho, grant).json


def test_faults_come_in_order_and_take_only_their_kind_of_request(zoho: FakeZoho) -> None:
    token = zoho.new_refresh_token()
    access_token = refresh(zoho, token)["access_token"]
    zoho.reply_next(Fault.json({}), to="refresh")
    zoho.reply_next(Fault.crm_error("INVALID_TOKEN"), times=2, to="leads")
    zoho.deny_next(1, 400)
    zoho.fail_next(1, 502, html=True)
    assert [crm(zoho, name, access_token).status for name in ("v8/org", *["v8/Leads"] * 3)] == [200, 401, 401, 200]
    answers = [refresh(zoho, token) for _ in range(4)]
    assert [answer.status for answer in answers] == [502, 400, 200, 200]
    assert (answers[0].content_type, answers[1]["error"]) == ("text/html; charset=utf-8", "Access Denied")
    assert answers[2].json == {}
    with pytest.raises(ValueError, match="no kind"):
        zoho.reply_next(Fault.json({}), to="nonsense")


def test_number_replaces_the_one_before_it_and_all_can_be_cleared(zoho: FakeZoho) -> None:
    zoho.fail_next(100)
    zoho.deny_next(100)
    zoho.fail_next(0)
    zoho.deny_next(0)
    assert "access_token" in refresh(zoho, zoho.new_refresh_token()).json
    zoho.fail_next(100)
    zoho.reply_next(Fault.html(), times=100)
    zoho.clear_faults()
    assert "access_token" in refresh(zoho, zoho.new_refresh_token()).json


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (Fault.error("invalid_scope", 401, "why"), 401, '{"error": "invalid_scope", "error_description": "why"}'),
        (Fault.text(), 200, ""),
        (Fault.text("not JSON", 400), 400, "not JSON"),
        (Fault.drip(0.001), 200, '{"error": "invalid_code"}'),
        (Fault.huge(2), 200, " " * (2 << 20)),
    ],
    ids=range(5),
)
def test_fault_replaces_reply(zoho: FakeZoho, fault: Fault, status: int, text: str) -> None:
    zoho.reply_next(fault)
    answer = refresh(zoho, zoho.new_refresh_token())
    assert (answer.status, answer.text) == (status, text)
    assert zoho.issued == []


def test_huge_reply_can_be_small_until_it_is_decompressed(zoho: FakeZoho) -> None:
    zoho.reply_next(Fault.huge(1, compressed=True))
    packed = refresh(zoho, "1000.unknown").text.encode("latin-1")
    assert len(packed) < 10_000 < len(gzip.decompress(packed)) == 1 << 20


def test_fault_redirects_with_the_body_kept(two: FakeZoho) -> None:
    two.reply_next(Fault.redirect(two.accounts_url("eu") + "/elsewhere"), to="refresh")
    answer = refresh(two, two.new_refresh_token())
    assert (answer.status, answer.address) == (307, two.accounts_url("eu") + "/elsewhere")


@pytest.mark.parametrize(
    ("fault", "error", "issued"),
    [
        (Fault.closed(), RemoteDisconnected, 0),
        (Fault.lost(), RemoteDisconnected, 1),
        (Fault.cut(), IncompleteRead, 0),
    ],
)
def test_fault_closes_connection(zoho: FakeZoho, fault: Fault, error: type[HTTPException], issued: int) -> None:
    zoho.reply_next(fault)
    with pytest.raises(error):
        refresh(zoho, zoho.new_refresh_token())
    assert len(zoho.issued) == issued


def test_delay_and_slow_wait_after_counting(zoho: FakeZoho) -> None:
    access_token = refresh(zoho, zoho.new_refresh_token())["access_token"]
    zoho.delay_s = 0.2
    zoho.reply_next(Fault.slow(0.2))
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        waiting = pool.submit(refresh, zoho, zoho.new_refresh_token())
        wait_until_asked(zoho, "refresh", 2)
        zoho.fail_next(1)  # concerns the next request, not the one that waits
        assert crm(zoho, "v8/org", access_token).status == 200
        assert time.monotonic() - began < 0.4
        assert waiting.result().status == 200
        assert time.monotonic() - began >= 0.4


# Records


def test_requests_are_recorded_with_all_their_parts(two: FakeZoho) -> None:
    two.advance(1e6)
    ask(two.accounts_url("eu") + "/nowhere?a=1", "POST", "b=2", {"X-Name": "value"})
    (request,) = two.requests_of("other")
    assert (request.location, request.method, request.target) == ("eu", "POST", "/nowhere?a=1")
    assert (request.parameters, request.form, request.headers["x-name"]) == ({"a": "1"}, {"b": "2"}, "value")
    assert request.at == pytest.approx(two.now(), abs=10)
    assert two.requests == [request]
    assert two.counts == {**dict.fromkeys(two.counts, 0), "other": 1}


def test_secrets_in_urls_finds_those_handed_out_and_those_sent(two: FakeZoho) -> None:
    client = two.new_client()
    code = authorize(two, client).callback["code"]
    tokens = exchange(two, code, client, code_verifier="a verifier")
    assert two.secrets_in_urls() == []
    for secret in (client.secrets["eu"], code, "a%20verifier", tokens["access_token"], tokens["refresh_token"]):
        ask(f"{two.url}/nowhere?{secret}")
    ask(two.url, headers={"Referer": f"http://localhost/?code={code}"})
    assert len(two.secrets_in_urls()) == 6


# HTTP


def test_listens_on_loopback_only(zoho: FakeZoho) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+", zoho.url)
    assert zoho.token_url == zoho.url + "/oauth/v2/token"
    for address in ("127.0.0.2", "::1"):
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((address, urlsplit(zoho.url).port or 0))


def test_listens_on_ipv6_loopback_where_asked() -> None:
    with FakeZoho(ipv6=True) as zoho:
        assert ask(f"http://[::1]:{urlsplit(zoho.url).port}/oauth/serverinfo").status == 200
        assert ask(zoho.url + "/oauth/serverinfo").status == 200


def test_kept_connection_answers_fast_and_drops_unwanted_bodies(zoho: FakeZoho) -> None:
    connection = connect(zoho.url)
    try:
        ask_on(connection, "GET", "/nowhere", "a body")
        first, began = connection.sock, time.monotonic()
        assert all(ask_on(connection, "GET", "/oauth/serverinfo").status == 200 for _ in range(50))
        assert time.monotonic() - began < 1.5  # Nagle's algorithm would make it 40 ms an answer
        assert connection.sock is first is not None
    finally:
        connection.close()


def test_64_connections_at_once_are_all_answered(zoho: FakeZoho) -> None:
    token = zoho.new_refresh_token()
    zoho.delay_s = 0.3
    barrier = threading.Barrier(64)

    def refresh_together(_: int) -> Answer:
        barrier.wait()
        return refresh(zoho, token)

    began = time.monotonic()
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(refresh_together, range(64)))
    assert time.monotonic() - began < 10
    assert {answer["access_token"] for answer in answers} == set(zoho.issued)
    assert zoho.count("refresh") == len(zoho.issued) == 64


@pytest.mark.parametrize(
    "request_text",
    [
        "nonsense\r\n\r\n",
        "GET http://[ HTTP/1.1\r\n\r\n",
        "POST /oauth/v2/token HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        "POST /oauth/v2/token HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /oauth/v2/token HTTP/1.1\r\nContent-Length: 65537\r\n\r\n",
        "POST /oauth/v2/token HTTP/1.1\r\nContent-Length: 90\r\n\r\ngrant_type=refresh_token",
        "POST /oauth/v2/token HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /oauth/v2/token HTTP/1.1\r\nContent-Length: 1\r\n\r\n\xff",
        "POST /oauth/v3/device/code HTTP/1.1\r\nContent-Length: 200\r\n\r\n" + "&" * 200,
    ],
    ids=range(9),
)
def test_malformed_request_is_answered_with_400(
    zoho: FakeZoho, request_text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    reply = send_raw(zoho, request_text.encode("latin-1"))
    assert re.match(rb"HTTP/1\.1 400 .*\r\nContent-Type: application/json\r\n", reply, re.DOTALL)
    assert "access_token" in refresh(zoho, zoho.new_refresh_token()).json
    assert zoho.secrets_in_urls() == []
    assert capfd.readouterr() == ("", "")


def test_client_that_hangs_up_leaves_no_traceback(zoho: FakeZoho, capfd: pytest.CaptureFixture[str]) -> None:
    zoho.delay_s = 0.1
    connection = connect(zoho.url)
    connection.request("POST", "/oauth/v2/token", urlencode({"grant_type": "refresh_token"}), FORM)
    wait_until_asked(zoho, "refresh")
    assert connection.sock is not None
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, as kill -9
    connection.close()
    time.sleep(0.2)
    assert capfd.readouterr() == ("", "")


def test_end_cuts_kept_waiting_and_hanging_connections() -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        with FakeZoho(delay_s=30) as zoho:
            kept = connect(zoho.url)
            ask_on(kept, "GET", "/nowhere")
            waiting = pool.submit(refresh, zoho, zoho.new_refresh_token())
            zoho.reply_next(Fault.hang(), to="serverinfo")
            hanging = pool.submit(ask, zoho.url + "/oauth/serverinfo")
            wait_until_asked(zoho, "refresh")
            wait_until_asked(zoho, "serverinfo")
        for future in (waiting, hanging):
            with pytest.raises((RemoteDisconnected, ConnectionError)):
                future.result()
    with pytest.raises((RemoteDisconnected, ConnectionError)):
        ask_on(kept, "GET", "/nowhere")
    kept.close()
    with pytest.raises(ConnectionRefusedError):
        ask(zoho.url + "/nowhere")
    # Windows tries for seconds before it says that a connection is refused.
    assert time.monotonic() - began < (5 if os.name == "posix" else 30)


def test_serves_again_with_what_it_knows() -> None:
    zoho = FakeZoho()
    assert zoho.url == ""
    with zoho:
        token = exchange(zoho, zoho.new_grant())["refresh_token"]
    with zoho:
        assert "access_token" in refresh(zoho, token).json


# The program

ENVIRONMENT = {"PYTHONPATH": str(TESTS)}
COMMAND = (sys.executable, "-m", "fake_zoho")


@pytest.mark.needs_signals
def test_prints_what_works_and_ends_quietly_on_ctrl_c() -> None:
    command = [*COMMAND, "--token-life", "5", "--consent", "accept", "--redirect-uri", "http://localhost:1/"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as program:
        assert program.stdout is not None
        lines = [program.stdout.readline().strip() for _ in range(5)]
        url, client_id, secret, grant, sdk = (line.partition(":")[2].strip() for line in lines)
        assert sdk == f'DataCenter.Environment("{url}", "{url}/oauth/v2/token", "{url}")'
        client = {"client_id": client_id, "client_secret": secret}
        form = {**client, "grant_type": "authorization_code", "code": grant}
        assert post(url + "/oauth/v2/token", **form)["expires_in"] == 5
        query = {"response_type": "code", "client_id": client_id, "scope": SCOPE}
        page = ask(url + "/oauth/v2/auth?" + urlencode({**query, "redirect_uri": "http://localhost:1/"}))
        assert "code" in parse_qs(urlsplit(page.address).query)
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=20) == ("", "")
    assert program.returncode == 0


def test_stops_by_itself() -> None:
    command = [*COMMAND, "--seconds", "0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True, env=ENVIRONMENT)
    assert (len(ran.stdout.splitlines()), ran.stderr) == (5, "")


@pytest.mark.needs_cheap_processes("seconds", "delay", "65536")
@pytest.mark.parametrize("option", ["--seconds=-1", "--delay=nan", "--port=65536", "--port={}"])
def test_wrong_option_or_taken_port_is_explained(zoho: FakeZoho, option: str) -> None:
    command = [*COMMAND, option.format(urlsplit(zoho.url).port)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, env=ENVIRONMENT)
    assert ran.returncode == 2
    assert "error: " in ran.stderr
    assert "Traceback" not in ran.stderr
