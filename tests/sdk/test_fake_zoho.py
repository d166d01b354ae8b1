from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from fake_zoho import LIMIT, LIMIT_WINDOW_S, ZGID, FakeZoho

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).parents[2] / "tests" / "fake_zoho.py"
ZOHO_TOKEN = re.compile(r"1000\.[0-9a-f]{32}\.[0-9a-f]{32}")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
CLIENT = {"client_id": "an id", "client_secret": "a secret"}


@dataclass(frozen=True)
class Answer:
    """An answer, with a look into its JSON."""

    status: int
    content_type: str | None
    text: str

    def __getitem__(self, key: str) -> Any:
        return json.loads(self.text)[key]


class Clock:
    """A clock that a test moves on."""

    now_s = 1000.0

    def read(self) -> float:
        """Return the time in seconds."""
        return self.now_s


def port_of(url: str) -> int:
    """Return the port in a server's address."""
    return int(url.rpartition(":")[2])


def ask(url: str, method: str, path: str, body: str = "", headers: dict[str, str] | None = None) -> Answer:
    """Send one request on a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port_of(url), timeout=20)
    try:
        return ask_on(connection, method, path, body, headers)
    finally:
        connection.close()


def ask_on(
    connection: HTTPConnection, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
) -> Answer:
    """Send one request on a connection and read the answer."""
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return Answer(response.status, response.getheader("Content-Type"), response.read().decode())


def post(fake_zoho: FakeZoho, path: str, **form: str) -> Answer:
    """Send a form."""
    return ask(fake_zoho.url, "POST", path, urlencode(form), FORM)


def exchange(fake_zoho: FakeZoho, grant: str) -> Answer:
    """Ask for the tokens of a grant, as the SDK does."""
    form = {**CLIENT, "redirect_uri": "https://example.com", "grant_type": "authorization_code", "code": grant}
    return post(fake_zoho, "/oauth/v2/token", **form)


def refresh(fake_zoho: FakeZoho, token: str) -> Answer:
    """Ask for a new access token, as the SDK does."""
    return post(fake_zoho, "/oauth/v2/token", **CLIENT, grant_type="refresh_token", refresh_token=token)


def get(fake_zoho: FakeZoho, path: str, access_token: str) -> Answer:
    """Ask the CRM with an access token, as the SDK does."""
    return ask(fake_zoho.url, "GET", path, headers={"Authorization": f"Zoho-oauthtoken {access_token}"})


def steer(fake_zoho: FakeZoho, **settings: object) -> Answer:
    """Change settings, as another process does."""
    return ask(fake_zoho.url, "POST", "/standin/settings", json.dumps(settings))


def send_raw(fake_zoho: FakeZoho, request: bytes) -> bytes:
    """Send bytes, then nothing more, and return everything that comes back."""
    with socket.create_connection(("127.0.0.1", port_of(fake_zoho.url)), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def wait_until_asked(fake_zoho: FakeZoho, kind: str, times: int = 1) -> None:
    """Wait until so many requests of a kind have arrived."""
    while fake_zoho.count(kind) < times:
        time.sleep(0.005)


@pytest.fixture
def fake_zoho() -> Iterator[FakeZoho]:
    """Give a server."""
    with FakeZoho() as serving:
        yield serving


def test_grant_is_exchanged_for_tokens(fake_zoho: FakeZoho) -> None:
    """The answer has the fields that the SDK reads, and sends it back to loopback."""
    grant = fake_zoho.new_grant()
    answer = exchange(fake_zoho, grant)
    assert (answer.status, answer.content_type) == (200, "application/json")
    tokens = json.loads(answer.text)
    for token in (grant, tokens.pop("access_token"), tokens.pop("refresh_token")):
        assert ZOHO_TOKEN.fullmatch(token)
    assert tokens == {"expires_in": 3600, "api_domain": fake_zoho.url, "token_type": "Bearer"}


def test_grant_works_once(fake_zoho: FakeZoho) -> None:
    """The second exchange is answered as an unknown grant is: status 200 and an error."""
    grant = fake_zoho.new_grant()
    exchange(fake_zoho, grant)
    for code in (grant, "1000.unknown"):
        answer = exchange(fake_zoho, code)
        assert (answer.status, json.loads(answer.text)) == (200, {"error": "invalid_code"})


def test_refresh_token_gives_new_access_tokens(fake_zoho: FakeZoho) -> None:
    """Each refresh gives another access token and no refresh token."""
    granted = exchange(fake_zoho, fake_zoho.new_grant())
    answers = [refresh(fake_zoho, granted["refresh_token"]) for _ in range(2)]
    assert fake_zoho.issued == [granted["access_token"], *(answer["access_token"] for answer in answers)]
    assert len(set(fake_zoho.issued)) == 3
    assert all("refresh_token" not in json.loads(answer.text) for answer in answers)


def test_unknown_refresh_token_is_an_invalid_code(fake_zoho: FakeZoho) -> None:
    """It has status 200, which is why the SDK has to look into the body."""
    answer = refresh(fake_zoho, "1000.unknown")
    assert (answer.status, json.loads(answer.text)) == (200, {"error": "invalid_code"})


def test_client_without_secret_is_invalid(fake_zoho: FakeZoho) -> None:
    """It does not use up the grant."""
    grant = fake_zoho.new_grant()
    answer = post(fake_zoho, "/oauth/v2/token", client_id="an id", grant_type="authorization_code", code=grant)
    assert (answer.status, answer["error"]) == (200, "invalid_client")
    assert ZOHO_TOKEN.fullmatch(exchange(fake_zoho, grant)["access_token"])


def test_revoked_refresh_token_is_invalid(fake_zoho: FakeZoho) -> None:
    """It is revoked once; a second time it is unknown."""
    token = fake_zoho.new_refresh_token()
    assert json.loads(post(fake_zoho, "/oauth/v2/token/revoke", token=token).text) == {"status": "success"}
    assert post(fake_zoho, "/oauth/v2/token/revoke", token=token)["status"] == "error"
    assert refresh(fake_zoho, token)["error"] == "invalid_code"
    assert fake_zoho.revoked == [token]
    assert fake_zoho.issued == []


def test_access_tokens_beyond_the_limit_are_denied() -> None:
    """The limit counts the token of the grant, is kept for each refresh token, and passes with time."""
    clock = Clock()
    with FakeZoho(enforce_limit=True, clock=clock.read) as fake_zoho:
        token = exchange(fake_zoho, fake_zoho.new_grant())["refresh_token"]
        for _ in range(LIMIT - 1):
            assert "access_token" in refresh(fake_zoho, token).text
        denied = refresh(fake_zoho, token)
        assert (denied.status, json.loads(denied.text)) == (200, {"error": "Access Denied"})
        assert "access_token" in refresh(fake_zoho, fake_zoho.new_refresh_token()).text
        clock.now_s += LIMIT_WINDOW_S
        assert "access_token" in refresh(fake_zoho, token).text


@pytest.mark.parametrize("version", ["v5", "v6", "v7", "v8"])
def test_users_and_org_answer_the_sdk(fake_zoho: FakeZoho, version: str) -> None:
    """The user is the one behind the grant; the organisation is the same for all."""
    access_token = exchange(fake_zoho, fake_zoho.new_grant("bob@example.com"))["access_token"]
    users = get(fake_zoho, f"/crm/{version}/users?type=CurrentUser", access_token)
    org = get(fake_zoho, f"/crm/{version}/org", access_token)
    assert (users.status, users.content_type) == (org.status, org.content_type) == (200, "application/json")
    assert [user["email"] for user in users["users"]] == ["bob@example.com"]
    assert users["info"]["count"] == 1
    assert [entry["zgid"] for entry in org["org"]] == [ZGID]


def test_users_keep_their_ids(fake_zoho: FakeZoho) -> None:
    """A refresh leads to the same user as before."""
    tokens = {user: fake_zoho.new_refresh_token(user) for user in ("ada@example.com", "bob@example.com")}
    seen: dict[str, set[str]] = {"ada@example.com": set(), "bob@example.com": set()}
    for user in [*tokens, *tokens]:
        (entry,) = get(fake_zoho, "/crm/v8/users", refresh(fake_zoho, tokens[user])["access_token"])["users"]
        assert entry["email"] == user
        seen[user].add(entry["id"])
    assert [len(ids) for ids in seen.values()] == [1, 1]
    assert seen["ada@example.com"] != seen["bob@example.com"]


@pytest.mark.parametrize("authorization", ["", "Zoho-oauthtoken 1000.unknown", "Bearer {}", "{}"])
def test_invalid_access_token_is_refused(fake_zoho: FakeZoho, authorization: str) -> None:
    """The scheme has to be Zoho's own."""
    access_token = refresh(fake_zoho, fake_zoho.new_refresh_token())["access_token"]
    headers = {"Authorization": authorization.format(access_token)}
    for resource in ("users", "org"):
        answer = ask(fake_zoho.url, "GET", f"/crm/v8/{resource}", headers=headers)
        assert (answer.status, answer.content_type) == (401, "application/json")
        assert json.loads(answer.text) == {
            "code": "INVALID_TOKEN",
            "message": "invalid oauth token",
            "details": {},
            "status": "error",
        }


def test_access_token_expires_after_its_life() -> None:
    """A later change of the life concerns the tokens issued from then on."""
    clock = Clock()
    with FakeZoho(token_life_s=4, clock=clock.read) as fake_zoho:
        first = refresh(fake_zoho, fake_zoho.new_refresh_token())
        fake_zoho.token_life_s = 60
        second = refresh(fake_zoho, fake_zoho.new_refresh_token())
        assert (first["expires_in"], second["expires_in"]) == (4, 60)
        clock.now_s += 3.9
        assert get(fake_zoho, "/crm/v8/org", first["access_token"]).status == 200
        clock.now_s += 0.1
        assert get(fake_zoho, "/crm/v8/org", first["access_token"]).status == 401
        assert get(fake_zoho, "/crm/v8/org", second["access_token"]).status == 200


def test_failures_have_the_status_asked_for(fake_zoho: FakeZoho) -> None:
    """A grant outlives the failures, so it can be tried again."""
    grant = fake_zoho.new_grant()
    fake_zoho.fail_next(2)
    answers = [exchange(fake_zoho, grant) for _ in range(2)]
    assert [(answer.status, answer.content_type) for answer in answers] == [(500, "application/json")] * 2
    assert "error" in json.loads(answers[0].text)
    assert exchange(fake_zoho, grant).status == 200


def test_denial_has_status_200(fake_zoho: FakeZoho) -> None:
    """This is Zoho's answer to too many refreshes."""
    token = fake_zoho.new_refresh_token()
    fake_zoho.deny_next(1)
    denied = refresh(fake_zoho, token)
    assert (denied.status, json.loads(denied.text)) == (200, {"error": "Access Denied"})
    assert "access_token" in refresh(fake_zoho, token).text


def test_failures_come_before_denials(fake_zoho: FakeZoho) -> None:
    """Both keep their own number, and other requests take nothing from it."""
    token = fake_zoho.new_refresh_token()
    access_token = refresh(fake_zoho, token)["access_token"]
    fake_zoho.deny_next(1)
    fake_zoho.fail_next(1, 502)
    assert get(fake_zoho, "/crm/v8/org", access_token).status == 200
    assert [refresh(fake_zoho, token).status for _ in range(3)] == [502, 200, 200]
    assert len(fake_zoho.issued) == 2


def test_delayed_request_is_counted_first(fake_zoho: FakeZoho) -> None:
    """So a test can act while a refresh is under way; other requests do not wait."""
    access_token = refresh(fake_zoho, fake_zoho.new_refresh_token())["access_token"]
    fake_zoho.delay_s = 0.5
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        waiting = pool.submit(refresh, fake_zoho, fake_zoho.new_refresh_token())
        wait_until_asked(fake_zoho, "refresh", 2)
        fake_zoho.fail_next(1)  # concerns the next request, not the one that waits
        assert get(fake_zoho, "/crm/v8/org", access_token).status == 200
        assert len(fake_zoho.issued) == 1
        assert not waiting.done()
        assert "access_token" in waiting.result().text
        assert time.monotonic() - began >= 0.5


def test_requests_are_counted_by_kind(fake_zoho: FakeZoho) -> None:
    """What cannot be told apart is "other"; steering is not counted."""
    exchange(fake_zoho, fake_zoho.new_grant())
    exchange(fake_zoho, "unknown")
    fake_zoho.fail_next(1)
    refresh(fake_zoho, "unknown")
    post(fake_zoho, "/oauth/v2/token/revoke", token="unknown")
    get(fake_zoho, "/crm/v8/users", "unknown")
    get(fake_zoho, "/crm/v8/org", "unknown")
    assert post(fake_zoho, "/oauth/v2/token", **CLIENT, grant_type="password").status == 400
    assert get(fake_zoho, "/crm/v8/Leads", "unknown").status == 404
    expected = {"grant": 2, "refresh": 1, "revoke": 1, "users": 1, "org": 1, "other": 2}
    assert fake_zoho.counts == expected
    assert fake_zoho.count("grant") == 2
    assert json.loads(ask(fake_zoho.url, "GET", "/standin/counts").text) == expected


def test_settings_can_be_changed_over_http(fake_zoho: FakeZoho) -> None:
    """Each setting does over HTTP what it does in the process."""
    assert steer(fake_zoho, delay_s=0.05, token_life_s=7, fail_next=1, deny_next=1)["status"] == "success"
    assert (fake_zoho.delay_s, fake_zoho.token_life_s) == (0.05, 7)
    token = fake_zoho.new_refresh_token()
    answers = [refresh(fake_zoho, token) for _ in range(3)]
    assert [answer.status for answer in answers] == [500, 200, 200]
    assert answers[1]["error"] == "Access Denied"
    assert answers[2]["expires_in"] == 7
    assert steer(fake_zoho, delay_s=-1, token_life_s=8).status == 400
    assert fake_zoho.token_life_s == 7
    assert ask(fake_zoho.url, "POST", "/standin/grant")["grant_token"]


def test_connections_are_answered_side_by_side(fake_zoho: FakeZoho) -> None:
    """They wait side by side, not one after the other, and none is counted twice or lost."""
    token = fake_zoho.new_refresh_token()
    fake_zoho.delay_s = 0.3
    barrier = threading.Barrier(16)

    def refresh_together(_: int) -> Answer:
        barrier.wait()
        return refresh(fake_zoho, token)

    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(refresh_together, range(16)))
    assert time.monotonic() - began < 4
    assert {answer.status for answer in answers} == {200}
    assert {answer["access_token"] for answer in answers} == set(fake_zoho.issued)
    assert fake_zoho.count("refresh") == len(fake_zoho.issued) == 16


@pytest.mark.parametrize(
    "request_text",
    [
        "nonsense\r\n\r\n",
        "POST /oauth/v2/token HTTP/1.1\r\n\r\n",
        "POST /oauth/v2/token HTTP/1.1\r\nContent-Length: 65537\r\n\r\n",
        "POST /oauth/v2/token HTTP/1.1\r\nContent-Length: 90\r\n\r\ngrant_type=refresh_token",
        "POST /standin/settings HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]",
    ],
    ids=range(5),
)
def test_malformed_request_is_answered_with_400(
    fake_zoho: FakeZoho, request_text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It leaves no traceback, and the server goes on."""
    reply = send_raw(fake_zoho, request_text.encode("latin-1"))
    assert re.match(rb"HTTP/1\.1 400 .*\r\nContent-Type: application/json\r\n", reply, re.DOTALL)
    assert json.loads(reply.partition(b"\r\n\r\n")[2])
    assert "access_token" in refresh(fake_zoho, fake_zoho.new_refresh_token()).text
    assert capfd.readouterr() == ("", "")


def test_client_that_hangs_up_prints_nothing(fake_zoho: FakeZoho, capfd: pytest.CaptureFixture[str]) -> None:
    """A process killed during a refresh must not fill the terminal of the test that killed it."""
    fake_zoho.delay_s = 0.1
    connection = HTTPConnection("127.0.0.1", port_of(fake_zoho.url))
    connection.request("POST", "/oauth/v2/token", urlencode({"grant_type": "refresh_token"}), FORM)
    wait_until_asked(fake_zoho, "refresh")
    assert connection.sock is not None
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, as kill -9
    connection.close()
    time.sleep(0.2)
    assert capfd.readouterr() == ("", "")


def test_close_does_not_wait_for_the_delay() -> None:
    """A test that has failed must not hang."""
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        with FakeZoho(delay_s=30) as fake_zoho:
            waiting = pool.submit(refresh, fake_zoho, fake_zoho.new_refresh_token())
            wait_until_asked(fake_zoho, "refresh")
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            waiting.result()
    assert time.monotonic() - began < 5


def test_program_prints_address_grant_and_environment() -> None:
    """Three lines, for a person: the address, a grant token, and the line for the SDK."""
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--seconds", "0"], capture_output=True, text=True, timeout=20, check=True
    )
    url, grant, line = ran.stdout.splitlines()
    assert ZOHO_TOKEN.fullmatch(grant)
    assert line == f'DataCenter.Environment("{url}", "{url}/oauth/v2/token", "{url}")'
    assert ran.stderr == ""
