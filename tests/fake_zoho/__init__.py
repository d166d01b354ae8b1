"""A fake Zoho: accounts and CRM servers of one or more data centres, over real HTTP, on loopback only.

    with FakeZoho(locations=("us", "eu"), consent="accept") as zoho:
        client = zoho.new_client(redirect_uris=["http://localhost:18734/callback"])
        zoho.new_user("eve@example.com", "eu"); zoho.browser_user = "eve@example.com"
        ...                                     # the program under test signs in at zoho.url
        assert zoho.count("grant") == 1 and zoho.secrets_in_urls() == []

- Where: `url` (accounts, first location), `token_url`, `accounts_url("eu")`, `api_url("eu")`. One port a location;
  `separate_api=True` gives the CRM a port of its own, `ipv6=True` listens on [::1] too.
- Switches (see `Settings`) are keyword arguments of `FakeZoho` and attributes that may be changed while it serves.
- Clients: `new_client(kind, redirect_uris=, locations=, ...)` returns a `Client` with `.id` and `.secrets[location]`.
  As long as there is none, every client id and secret is accepted, except on the consent page.
- Tokens without a sign-in: `new_grant(user)` (a self client's code), `new_refresh_token(user)`.
- The browser: `GET {url}/oauth/v2/auth?...` shows a page with the buttons "Accept" and "Reject";
  `consent="accept"` or `"reject"` redirects at once. `callback=Callback(...)` forges the address of that redirect.
- Devices: `approve_device(user_code, user)`, `reject_device(user_code)`, or the page at `verification_url`.
- Faults: `reply_next(Fault.error("invalid_code", 401), times=1, to="refresh")`; also `Fault.html .json .huge .redirect
  .slow .hang .drip .closed .cut .lost`. `to` is one of `KINDS`, or "token". `fail_next`, `deny_next`, `clear_faults`.
- Time: `advance(seconds)` moves its clock; `expire_access_tokens()` ends all access tokens at once.
- What happened: `requests` (kind, location, method, path, query, headers, body), `requests_of(kind)`, `counts`,
  `count(kind)`, `issued`, `revoked`, `secrets_in_urls()`.

By hand: `PYTHONPATH=tests python -m fake_zoho --help`.
"""

from __future__ import annotations

from fake_zoho._accounts import (
    ACCESS_TOKENS_KEPT,
    DEFAULT_REDIRECT,
    LIMIT,
    LIMIT_WINDOW_S,
    REFRESH_TOKENS_KEPT,
    Client,
)
from fake_zoho._crm import ZGID
from fake_zoho._fake import KINDS, FakeZoho
from fake_zoho._messages import Fault, Reply, Request
from fake_zoho._settings import DEFAULT_USER, Callback, Settings

__all__ = [
    "ACCESS_TOKENS_KEPT",
    "DEFAULT_REDIRECT",
    "DEFAULT_USER",
    "KINDS",
    "LIMIT",
    "LIMIT_WINDOW_S",
    "REFRESH_TOKENS_KEPT",
    "ZGID",
    "Callback",
    "Client",
    "FakeZoho",
    "Fault",
    "Reply",
    "Request",
    "Settings",
]
