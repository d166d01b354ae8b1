"""Zoho's data centres: which accounts server signs in, and which hosts an access token may be sent to.

Only servers of this table, or the one that the user names, are contacted: the client secret is sent to the accounts
server, and a forged callback of a sign-in can name any server.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

LOOPBACK_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))


class DataCentre(NamedTuple):
    """A data centre.

    Attributes:
        location: Zoho's name for it, such as "eu"; empty for a server that the user named by its address.
        accounts_url: The accounts server, without a slash at the end.
        api_url: The API server, likewise; empty where only a reply tells it.
    """

    location: str
    accounts_url: str
    api_url: str


def _of(location: str, accounts: str, api: str) -> DataCentre:
    return DataCentre(location, f"https://{accounts}", f"https://www.{api}")


#: Source: Zoho CRM API documentation, "Multi DC"; ae and sg from public clients of Zoho.
DATA_CENTRES = {
    centre.location: centre
    for centre in (
        _of("us", "accounts.zoho.com", "zohoapis.com"),
        _of("eu", "accounts.zoho.eu", "zohoapis.eu"),
        _of("in", "accounts.zoho.in", "zohoapis.in"),
        _of("au", "accounts.zoho.com.au", "zohoapis.com.au"),
        _of("jp", "accounts.zoho.jp", "zohoapis.jp"),
        _of("cn", "accounts.zoho.com.cn", "zohoapis.com.cn"),
        _of("ca", "accounts.zohocloud.ca", "zohoapis.ca"),
        _of("sa", "accounts.zoho.sa", "zohoapis.sa"),
        _of("uk", "accounts.zoho.uk", "zohoapis.uk"),
        _of("ae", "accounts.zoho.ae", "zohoapis.ae"),
        _of("sg", "accounts.zoho.sg", "zohoapis.sg"),
    )
}

#: Hosts that may be sent an access token: production, sandbox and developer edition of each data centre.
API_HOSTS = frozenset(
    f"{edition}.{centre.api_url.removeprefix('https://www.')}"
    for centre in DATA_CENTRES.values()
    for edition in ("www", "sandbox", "developer")
)


def data_centre(dc: str) -> DataCentre:
    """Return the data centre of a location, or of the address of an accounts server.

    Args:
        dc: A location such as "eu", or an https address; http only for a server on this machine.

    Raises:
        ConfigurationError: It is neither.
    """
    if centre := DATA_CENTRES.get(dc.strip().lower()):
        return centre
    parts = _split(dc)
    if parts is None:
        raise ConfigurationError(
            "the data centre is not known", f"Give one of {', '.join(DATA_CENTRES)}, or the https address of a server"
        )
    if not is_secure(parts):
        raise ConfigurationError(
            "the accounts server's address does not begin with https://", "http is allowed on this machine only"
        )
    url = f"{parts.scheme}://{parts.netloc}".lower()
    return by_accounts_url(url) or DataCentre("", url, "")


def by_accounts_url(url: str) -> DataCentre | None:
    """Return the data centre of the table with an accounts server, or None."""
    wanted = url.rstrip("/").lower()
    return next((centre for centre in DATA_CENTRES.values() if centre.accounts_url == wanted), None)


def by_api_url(url: str) -> DataCentre | None:
    """Return the data centre of the table that an API server belongs to, or None."""
    parts = _split(url)
    domain = "" if parts is None or parts.hostname is None else parts.hostname.partition(".")[2]
    return next((centre for centre in DATA_CENTRES.values() if centre.api_url == f"https://www.{domain}"), None)


def may_be_sent_to(api_url: str, centre: DataCentre) -> bool:
    """Return whether an access token of a data centre may be sent to an API server that a reply names."""
    parts = _split(api_url)
    if parts is None or not is_secure(parts):
        return False
    # A server that the user has named may name any API server.
    return not centre.location or parts.netloc.lower() in API_HOSTS


def is_secure(parts: SplitResult) -> bool:
    """Return whether secrets may be sent to an address: by https, or to this machine."""
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS)


def _split(url: str) -> SplitResult | None:
    if not re.match(r"https?://", url, re.IGNORECASE):
        return None
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
            return None
        if parts.path not in ("", "/") or parts.port == 0:
            return None
    except ValueError:
        return None
    return parts
