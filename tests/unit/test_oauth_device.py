"""The device flow against the fake server, with a clock that does not wait."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from fake_zoho import FakeZoho, Fault
from zoho_keystore._oauth import data_centres, device, http
from zoho_keystore._oauth.data_centres import DataCentre, data_centre
from zoho_keystore._oauth.device import DeviceCode, poll, request_code
from zoho_keystore._oauth.endpoints import Client, TokenReply
from zoho_keystore.errors import (
    ClientRefusedError,
    KeystoreError,
    SignInError,
    SignInNeededError,
    ThrottledError,
    ZohoUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCOPE = "ZohoCRM.modules.ALL"


class Device:
    """A device that signs in at a fake server.

    Attributes:
        slept_s: How long it waited each time.
    """

    def __init__(self, zoho: FakeZoho) -> None:
        self.zoho = zoho
        registered = zoho.new_client("non-browser", redirect_uris=())
        self.client = Client(registered.id, registered.secrets[zoho.locations[0]])
        self.centre = data_centre(zoho.url)
        self.slept_s: list[float] = []

    def code(self) -> DeviceCode:
        """Ask for a code."""
        return request_code(self.centre, self.client, SCOPE)

    def poll(
        self, code: DeviceCode, meanwhile: Callable[[int], None] = lambda _polls: None, *, timeout_s: float = 300.0
    ) -> tuple[DataCentre, TokenReply]:
        """Poll, with something done in each wait, until the sign-in ends."""

        def sleep(seconds: float) -> None:
            self.slept_s.append(seconds)
            self.zoho.advance(seconds)
            meanwhile(len(self.slept_s))

        return poll(self.centre, self.client, code, timeout_s=timeout_s, sleep=sleep, monotonic_s=self.zoho.now)


@pytest.fixture
def zoho(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeZoho]:
    monkeypatch.setattr(http, "_RETRY_PAUSE_S", 0.01)
    with FakeZoho(locations=("us", "eu")) as zoho:
        yield zoho


@pytest.fixture
def machine(zoho: FakeZoho) -> Device:
    return Device(zoho)


@pytest.mark.parametrize("unit", ["ms", "s"])
def test_device_flow_until_accepted(zoho: FakeZoho, machine: Device, unit: Any) -> None:
    zoho.device_unit = unit
    code = machine.code()
    assert (code.interval_s, code.life_s) == (30.0, 300.0)
    assert code.url == f"{zoho.url}/oauth/v3/device?user_code={code.user_code}"
    centre, issued = machine.poll(code, lambda polls: zoho.approve_device(code.user_code) if polls == 3 else None)
    assert centre == machine.centre
    assert issued.refresh_token
    assert machine.slept_s == [30.0] * 3
    assert zoho.requests[0].form["access_type"] == "offline"
    assert "client_secret" not in zoho.requests[0].form


def test_device_flow_told_to_slow_down_asks_less_often(zoho: FakeZoho, machine: Device) -> None:
    code = machine.code()
    hasty = DeviceCode(code.user_code, code.device_code, code.url, 5.0, 300.0)
    machine.poll(hasty, lambda polls: zoho.approve_device(code.user_code) if polls == 2 else None)
    assert machine.slept_s == [5.0, 30.0]
    zoho.reply_next(Fault.error("slow_down", 400), times=2, to="device_token")
    with pytest.raises(SignInError, match="was not entered in time"):
        machine.poll(machine.code(), timeout_s=100)
    assert machine.slept_s[2:] == [30.0, 35.0, pytest.approx(35.0, abs=1)]


@pytest.mark.parametrize("field", ["user_location", "dc"])
def test_device_flow_goes_on_in_the_user_data_centre(
    zoho: FakeZoho, machine: Device, field: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for location in zoho.locations:
        entry = DataCentre(location, zoho.accounts_url(location), zoho.api_url(location))
        monkeypatch.setitem(data_centres.DATA_CENTRES, location, entry)
    machine.centre = data_centre("us")
    zoho.other_dc_field = field
    zoho.new_user("eve@example.com", "eu")
    registered = zoho.new_client("non-browser", redirect_uris=(), needs_secret=False)
    machine.client = Client(registered.id)  # Each data centre has another secret.
    code = machine.code()
    zoho.approve_device(code.user_code, "eve@example.com")
    centre, issued = machine.poll(code)
    assert centre.location == "eu"
    assert issued.api_domain == zoho.api_url("eu")
    assert [request.location for request in zoho.requests_of("device_token")] == ["us", "eu"]


@pytest.mark.parametrize("other", [{}, {"user_location": "mars"}, {"user_location": 7}, {"user_location": "eu"}])
def test_device_flow_stays_at_a_named_server(zoho: FakeZoho, machine: Device, other: Any) -> None:
    zoho.reply_next(Fault.json({"error": "other_dc", **other}), to="device_token")
    with pytest.raises(SignInError, match="another data centre, which is not known here"):
        machine.poll(machine.code())


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("error", "kind", "problem"),
    [
        ("access_denied", SignInError, "refused on Zoho's page; nothing was kept"),
        ("expired", SignInError, "was not entered in time; nothing was kept"),
        ("invalid_code", SignInError, "does not accept the device's code"),
        ("invalid_client", ClientRefusedError, "does not know the client"),
        ("Access Denied", ThrottledError, "for a while"),
    ],
)
def test_device_flow_error_ends_it(  # noqa: PLR0917 - pytest passes by name
    zoho: FakeZoho, machine: Device, status: int, error: str, kind: type[KeystoreError], problem: str
) -> None:
    zoho.reply_next(Fault.error(error, status), to="device_token")
    with pytest.raises(kind, match=problem) as caught:
        machine.poll(machine.code())
    assert not isinstance(caught.value, SignInNeededError)
    assert zoho.count("device_token") == 1


def test_device_flow_ends_with_the_code_or_the_timeout(machine: Device) -> None:
    with pytest.raises(SignInError, match="was not entered in time"):
        machine.poll(machine.code(), timeout_s=45)
    assert sum(machine.slept_s) == pytest.approx(45, abs=1)
    with pytest.raises(SignInError, match="was not entered in time"):
        machine.poll(machine.code(), timeout_s=math.inf)
    assert sum(machine.slept_s) == pytest.approx(345, abs=2)


def test_device_flow_survives_a_broken_reply(zoho: FakeZoho, machine: Device) -> None:
    """And names it, when no other reply comes in time."""
    code = machine.code()
    zoho.approve_device(code.user_code)
    zoho.reply_next(Fault.html(), to="device_token")
    assert machine.poll(code)[1].refresh_token
    zoho.reply_next(Fault.html(), times=99, to="device_token")
    with pytest.raises(ZohoUnreachableError, match="HTTP 502"):
        machine.poll(machine.code())


def test_device_flow_without_refresh_token_keeps_nothing(zoho: FakeZoho, machine: Device) -> None:
    zoho.alter_tokens = {"refresh_token": None}
    code = machine.code()
    zoho.approve_device(code.user_code)
    with pytest.raises(SignInError, match="no refresh token"):
        machine.poll(code)


def test_request_code_reply_is_checked(zoho: FakeZoho, machine: Device) -> None:
    fields = {"user_code": "U", "device_code": "D", "verification_url": "https://accounts.zoho.com/device"}
    for interval in (None, True, "5", 0, -1, math.inf, math.nan, 10**30):
        zoho.reply_next(Fault.json({**fields, "interval": interval, "expires_in": interval}), to="device_code")
        code = machine.code()
        assert (code.interval_s, code.life_s, code.url) == (5.0, 300.0, fields["verification_url"])
    zoho.reply_next(Fault.json({**fields, "user_code": 7}), to="device_code")
    with pytest.raises(ZohoUnreachableError, match="is not understood"):
        machine.code()
    zoho.reply_next(Fault.error("invalid_client"), to="device_code")
    with pytest.raises(ClientRefusedError):
        machine.code()
    zoho.reply_next(Fault.html(), times=2, to="device_code")
    with pytest.raises(ZohoUnreachableError):
        machine.code()
    assert repr(device.DeviceCode("USER", "SECRET", "URL", 1, 2)) == "DeviceCode(interval_s=1, life_s=2)"
