"""``login``: sign in at Zoho and keep the token."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import click

from zoho_keystore._cli.output import echo_escaped, print_json, record_as_json
from zoho_keystore._cli.settings import Settings, pass_settings
from zoho_keystore._keys.sources import read_secret
from zoho_keystore._oauth.browser import DEFAULT_REDIRECT_URI, open_browser
from zoho_keystore._oauth.data_centres import DATA_CENTRES, data_centre
from zoho_keystore._oauth.endpoints import Client
from zoho_keystore._open import open_keystore
from zoho_keystore._operations import sign_in
from zoho_keystore._operations.setup import init
from zoho_keystore._operations.sign_in import DEFAULT_SCOPE, SignedIn, SignIn

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._oauth.device import DeviceCode

_ADVICE = (
    "If the browser shows an error page of Zoho's, it will not come back here: check the client id, the data centre "
    "(--dc), and that the redirect URI above is registered with the client."
)


@click.command("login")
@click.option("--device", "is_device", is_flag=True, help="Enter a code on another machine, instead of a browser here.")
@click.option("--self-client", metavar="FILE", help="Use the self_client.json that Zoho's API console hands out.")
@click.option("--grant", "is_grant", is_flag=True, help="Use a code of the API console, from a prompt or stdin.")
@click.option("--client-credentials", is_flag=True, help="Get a token without a user; needs --soid.")
@click.option("--soid", metavar="ID", help="The organization of client credentials: ZohoCRM.<zgid>.")
@click.option("--client-id", metavar="ID", help="The OAuth client. Default: asked for.")
@click.option(
    "--client-secret",
    metavar="SPEC",
    help="Where its secret is: env:NAME, file:PATH, command:ARGV or keyring:SERVICE/USER. Default: asked for.",
)
@click.option("--scope", metavar="S,S", help=f"The scopes. Default: {DEFAULT_SCOPE}.")
@click.option(
    "--dc",
    metavar="DC",
    help=f"The data centre: {' '.join(DATA_CENTRES)}, or an accounts server's address. Default: us.",
)
@click.option("--id", "id_", metavar="ID", help="Sign this token in again, with its client, scopes and data centre.")
@click.option(
    "--redirect-uri", metavar="URI", help=f"As it is registered with the client. Default: {DEFAULT_REDIRECT_URI}."
)
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@click.option("--timeout", metavar="S", type=click.FloatRange(1), default=300.0, help="How long to wait. Default: 300.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the id.")
@pass_settings
def command(  # noqa: PLR0917 - click passes by name
    settings: Settings,
    is_device: bool,  # noqa: FBT001 - click passes by name
    self_client: str | None,
    is_grant: bool,  # noqa: FBT001 - as above
    client_credentials: bool,  # noqa: FBT001 - as above
    soid: str | None,
    client_id: str | None,
    client_secret: str | None,
    scope: str | None,
    dc: str | None,
    id_: str | None,
    redirect_uri: str | None,
    no_browser: bool,  # noqa: FBT001 - as above
    timeout: float,
    as_json: bool,  # noqa: FBT001 - as above
) -> None:
    """Sign in at Zoho, and keep the token.

    By browser, unless another way is given. Where there is no store yet, it is created, with its key ring, as by init.
    The id of the token is printed on stdout; everything else on stderr.
    """
    if sum((is_device, self_client is not None, is_grant, client_credentials)) > 1:
        raise click.UsageError("Give one of --device, --self-client, --grant and --client-credentials.")
    if client_credentials and not soid:
        raise click.UsageError("--client-credentials needs --soid ZohoCRM.<zgid>.")
    keystore = _prepared(settings)
    download = None if self_client is None else sign_in.read_self_client(self_client)
    if id_ is not None:
        stored = keystore.require(id_)
        who = sign_in.again(stored, None if client_secret is None else read_secret(client_secret))
        who = who if dc is None else SignIn(who.client, data_centre(dc), who.scope, who.redirect_uri, who.id)
    else:
        client = download.client if download is not None else _client(client_id, client_secret)
        who = SignIn(client, data_centre(dc or "us"), DEFAULT_SCOPE if download is None else download.scope)
    if scope is not None:
        who = SignIn(who.client, who.centre, sign_in.normalized_scope(scope), who.redirect_uri, who.id)
    if redirect_uri is not None:
        who = SignIn(who.client, who.centre, who.scope, redirect_uri, who.id)
    if download is not None:
        done = sign_in.by_code(keystore, who, download.code, "self client")
    elif is_grant:
        done = sign_in.by_code(keystore, who, _code())
    elif client_credentials:
        done = sign_in.by_client_credentials(keystore, who, soid=soid or "")
    elif is_device:
        done = sign_in.by_device(keystore, who, timeout_s=timeout, show=_show_device)
    else:
        done = sign_in.by_browser(
            keystore, who, timeout_s=timeout, show=_shower(who, is_opened=not no_browser), paste=_read_pasted
        )
    _report(settings, done, as_json=as_json)


def _prepared(settings: Settings) -> Keystore:
    """Open the store, and create it and its key ring where they are missing: before a code is spent, which works once."""
    if not os.path.lexists(settings.path):
        made = init(settings.store, key=settings.key)
        if made.made_key:
            echo_escaped(
                f"Created the key ring {made.source}. Keep a copy of it: without it, the store cannot be opened.",
                err=True,
            )
        if made.made_store:
            echo_escaped(f"Created the store {made.store}.", err=True)
    return open_keystore(settings.store, key=settings.key)


def _client(client_id: str | None, client_secret: str | None) -> Client:
    is_asked = sys.stdin.isatty()
    if client_id is None:
        if not is_asked:
            raise click.UsageError("Give --client-id: stdin is not a terminal.")
        client_id = str(click.prompt("Client id", err=True)).strip()
    if client_secret is not None:
        return Client(client_id, read_secret(client_secret))
    if not is_asked:
        raise click.UsageError("Give --client-secret env:NAME or the like: stdin is not a terminal.")
    return Client(client_id, str(click.prompt("Client secret", hide_input=True, err=True)).strip())


def _code() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Code", hide_input=True, err=True)).strip()
    code = sys.stdin.readline().strip()
    if not code:
        raise click.UsageError("There is no code on stdin.")
    return code


def _shower(who: SignIn, *, is_opened: bool) -> Callable[[str], None]:
    def show(url: str) -> None:
        echo_escaped(
            f"Signing in at {who.centre.accounts_url}. The callback goes to {who.redirect_uri or DEFAULT_REDIRECT_URI}",
            err=True,
        )
        opened = is_opened and open_browser(url)
        echo_escaped("Your browser was opened at:" if opened else "Open this address in a browser:", err=True)
        echo_escaped(url, err=True)
        echo_escaped(_ADVICE, err=True)
        if sys.stdin.isatty():
            echo_escaped("On another machine: paste here the address that the browser ends at.", err=True)

    return show


def _read_pasted(take: Callable[[str], bool]) -> None:
    """Read addresses from the terminal meanwhile."""
    if not sys.stdin.isatty():
        return

    def read() -> None:
        for line in sys.stdin:
            if line.strip() and take(line):
                return
            if line.strip():
                echo_escaped("This is not the address of this sign-in's callback.", err=True)

    threading.Thread(target=read, daemon=True).start()


def _show_device(code: DeviceCode) -> None:
    echo_escaped(f"Open {code.url} on any machine, and enter the code {code.user_code}", err=True)


def _report(settings: Settings, done: SignedIn, *, as_json: bool) -> None:
    for warning in done.warnings:
        echo_escaped(f"Warning: {warning}.", err=True)
    record = done.record
    echo_escaped(
        f"Signed in {record.user_name or 'a user without a name'}; the token is kept in {settings.path}.", err=True
    )
    if as_json:
        print_json(record_as_json(record))
    else:
        echo_escaped(record.id)
