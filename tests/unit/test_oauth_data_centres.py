"""Which servers are Zoho's, and which addresses may be sent secrets."""

from __future__ import annotations

import pytest

from zoho_keystore._oauth.data_centres import (
    API_HOSTS,
    DATA_CENTRES,
    DataCentre,
    by_accounts_url,
    by_api_url,
    data_centre,
    may_be_sent_to,
)
from zoho_keystore.errors import ConfigurationError


def test_data_centres_are_those_of_the_table() -> None:
    assert " ".join(DATA_CENTRES) == "us eu in au jp cn ca sa uk ae sg"
    assert DATA_CENTRES["ca"] == DataCentre("ca", "https://accounts.zohocloud.ca", "https://www.zohoapis.ca")
    assert DATA_CENTRES["cn"].accounts_url == "https://accounts.zoho.com.cn"
    assert {"www.zohoapis.com.au", "sandbox.zohoapis.eu", "developer.zohoapis.jp"} <= API_HOSTS
    assert len(API_HOSTS) == 33


@pytest.mark.parametrize(
    ("dc", "expected"),
    [
        ("eu", DATA_CENTRES["eu"]),
        (" EU ", DATA_CENTRES["eu"]),
        ("https://accounts.zoho.in/", DATA_CENTRES["in"]),
        ("HTTPS://Accounts.Zoho.IN", DATA_CENTRES["in"]),
        ("https://zoho.example.com:8443", DataCentre("", "https://zoho.example.com:8443", "")),
        ("http://localhost:1", DataCentre("", "http://localhost:1", "")),
        ("http://[::1]:80", DataCentre("", "http://[::1]:80", "")),
    ],
)
def test_data_centre_of_location_or_address(dc: str, expected: DataCentre) -> None:
    assert data_centre(dc) == expected


@pytest.mark.parametrize(
    ("dc", "problem"),
    [
        *((dc, "is not known.*Give one of us, eu") for dc in ("", "mars", "accounts.zoho.eu", "ftp://a.b", "https://")),
        *(
            (f"https://{rest}", "is not known")
            for rest in ("a.b/path", "a.b?q", "a.b#f", "u@a.b", "u:p@a.b", "[x", "a:0")
        ),
        ("https://evil.example\\@accounts.zoho.eu", "is not known"),
        ("https://a.b:99999", "is not known"),
        ("http://accounts.zoho.eu", "does not begin with https.*this machine only"),
        ("http://localhost.example.com", "does not begin with https"),
    ],
)
def test_data_centre_of_other_text_is_refused(dc: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        data_centre(dc)


def test_by_url_finds_only_servers_of_the_table() -> None:
    assert by_accounts_url("https://accounts.zoho.eu/") == DATA_CENTRES["eu"]
    assert by_accounts_url("https://accounts.zoho.eu.example.com") is None
    assert by_api_url("https://sandbox.zohoapis.eu") == DATA_CENTRES["eu"]
    assert by_api_url("https://zohoapis.example.com") is None
    assert by_api_url("") is None


@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        ("https://www.zohoapis.eu", "eu", True),
        ("https://www.zohoapis.com", "eu", True),
        ("https://zohoapis.example.com", "eu", False),
        ("https://www.zohoapis.eu:444", "eu", False),
        ("http://www.zohoapis.eu", "eu", False),
        ("http://localhost:1", "eu", False),
        ("", "eu", False),
        ("http://localhost:1", "", True),
        ("https://api.example.com", "", True),
        ("http://api.example.com", "", False),
    ],
)
def test_may_be_sent_to_known_servers_or_those_of_a_named_one(url: str, location: str, expected: bool) -> None:  # noqa: FBT001 - a parameter of the test
    centre = DATA_CENTRES.get(location, DataCentre("", "https://accounts.example.com", ""))
    assert may_be_sent_to(url, centre) is expected
