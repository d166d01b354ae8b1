"""``login``: sign in at Zoho and keep the token."""

from __future__ import annotations

import os
import select
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from zoho_keystore import _platform as platform
from zoho_keystore._cli.init import create_missing
from zoho_keystore._cli.output import echo_escaped, print_json, record_as_json
from zoho_keystore._cli.settings import Settings, closed_at_end, complete_ids, complete_paths, pass_settings
from zoho_keystore._keys.sources.secret import read_secret
from zoho_keystore._oauth import http
from zoho_keystore._oauth.browser import DEFAULT_REDIRECT_URI, open_browser
from zoho_keystore._oauth.data_centres import DATA_CENTRES, DataCentre, data_centre
from zoho_keystore._oauth.endpoints import Client
from zoho_keystore._open import open_keystore
from zoho_keystore._operations import sign_in
from zoho_keystore._operations.sign_in import CLIENT_CREDENTIALS, DEFAULT_SCOPE, SignedIn, SignIn

if TYPE_CHECKING:
    from zoho_keystore._keystore import Keystore

_ADVICE = (
    "If the browser shows an error of Zoho's, it will not come back here: check the client id, the data centre (--dc), "
    "and that this redirect URI is registered with the client: {}"
)
_MAX_PASTED_BYTES = 8_192


def _complete_data_centres(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in DATA_CENTRES if name.startswith(incomplete)]


@click.command("login")
@click.option("--device", "is_device", is_flag=True, help="Enter a code on another machine, instead of a browser here.")
@click.option(
    "--self-client",
    metavar="FILE",
    shell_complete=complete_paths,
    help="Use the self_client.json that Zoho's API console hands out.",
)
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
    shell_complete=_complete_data_centres,
    help=f"The data centre: {' '.join(DATA_CENTRES)}, or an accounts server's address. Default: us.",
)
@click.option(
    "--id",
    "id_",
    metavar="ID",
    shell_complete=complete_ids,
    help="Sign this token in again, with its client, scopes and data centre.",
)
@click.option(
    "--redirect-uri", metavar="URI", help=f"As it is registered with the client. Default: {DEFAULT_REDIRECT_URI}."
)
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
@click.option(
    "--timeout", metavar="S", type=click.IntRange(1, 86_400), default=300, help="Wait so many seconds. Default: 300."
)
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
    timeout: int,
    as_json: bool,  # noqa: FBT001 - as above
) -> None:
    """Sign in at Zoho, and keep the token.

    By browser, unless another way is given. With --id, in the way in which the token was signed in before. Where there
    is no store yet, it is created, with its key ring, as by init. The id of the token is printed on stdout; everything
    else on stderr.
    """
    ways = {"device": is_device, "self client": self_client, "grant": is_grant, CLIENT_CREDENTIALS: client_credentials}
    chosen = [way for way, is_given in ways.items() if is_given]
    _require_usable(chosen, soid=soid, self_client=self_client, client_id=client_id, id_=id_, secret=client_secret)
    centre = None if dc is None else data_centre(dc)
    http.library()
    keystore = _prepared(settings)
    download = None if self_client is None else sign_in.read_self_client(self_client)
    secret = None if client_secret is None else read_secret(client_secret)
    way = next(iter(chosen), "browser")
    if id_ is not None:
        stored = keystore.require(id_)
        who = sign_in.again(stored, secret)
        soid = soid or stored.soid
        way = next(iter(chosen), _way_of(stored.kind))
    else:
        client = Client("") if download is not None else _client(client_id, secret)
        who = SignIn(client, DATA_CENTRES["us"])
    if download is not None:
        who = replace(who, client=download.client, scope=download.scope)
    who = _changed(who, centre, scope)
    user = Terminal(redirect_uri or who.redirect_uri or DEFAULT_REDIRECT_URI, is_opened=not no_browser)
    if way == "browser":
        who = replace(who, redirect_uri=redirect_uri or who.redirect_uri)
        done = sign_in.by_browser(keystore, who, timeout_s=timeout, user=user)
    elif way == "device":
        done = sign_in.by_device(keystore, who, timeout_s=timeout, user=user)
    elif way == CLIENT_CREDENTIALS:
        done = sign_in.by_client_credentials(keystore, who, soid=soid or "")
    else:
        # A code of the API console has no redirect URI, whatever the record was signed in with before.
        who = replace(who, redirect_uri=redirect_uri)
        code = _code() if download is None else download.code
        done = sign_in.by_code(keystore, who, code, user=user, kind=way)
    _report(keystore.name, done, as_json=as_json)


def _require_usable(
    chosen: list[str],
    *,
    soid: str | None,
    self_client: str | None,
    client_id: str | None,
    id_: str | None,
    secret: str | None,
) -> None:
    """Refuse options that contradict each other, before anything is created.

    Raises:
        click.UsageError: They do.
    """
    if len(chosen) > 1:
        raise click.UsageError("Give one of --device, --self-client, --grant and --client-credentials.")
    if CLIENT_CREDENTIALS in chosen and not soid and id_ is None:
        raise click.UsageError("--client-credentials needs --soid ZohoCRM.<zgid>.")
    if id_ is not None and client_id is not None:
        raise click.UsageError("With --id, the token's own client is used. Give --client-id for a new token.")
    if client_id is not None and not client_id.strip():
        raise click.UsageError("--client-id is empty.")
    if self_client is not None and (client_id is not None or secret is not None):
        raise click.UsageError("The file of --self-client names the client. Leave out --client-id and --client-secret.")
    if id_ is None and self_client is None and not platform.is_terminal(sys.stdin):
        if client_id is None:
            raise click.UsageError("Give --client-id: stdin is not a terminal.")
        if secret is None:
            raise click.UsageError("Give --client-secret env:NAME or the like: stdin is not a terminal.")


def _prepared(settings: Settings) -> Keystore:
    """Open the store, with its key ring created where both are missing, and prove that it can be saved."""
    create_missing(settings)
    keystore = closed_at_end(open_keystore(settings.store, key=settings.key))
    keystore.prove_writable()
    return keystore


def _way_of(kind: str | None) -> str:
    """Return how to sign in a record again: as before, where it is known how that was."""
    if kind in {"device", CLIENT_CREDENTIALS}:
        return kind
    return "grant" if kind in {"grant", "self client"} else "browser"


def _changed(who: SignIn, centre: DataCentre | None, scope: str | None) -> SignIn:
    return replace(
        who,
        centre=who.centre if centre is None else centre,
        scope=who.scope if scope is None else sign_in.normalized_scope(scope),
    )


def _client(client_id: str | None, secret: str | None) -> Client:
    if client_id is None:
        client_id = click.prompt("Client id", err=True)
    if secret is None:
        secret = click.prompt(
            "Client secret (empty if it has none)", default="", show_default=False, hide_input=True, err=True
        )
    return Client(str(client_id).strip(), str(secret).strip())


def _code() -> str:
    if platform.is_terminal(sys.stdin):
        return str(click.prompt("Code", hide_input=True, err=True)).strip()
    code = sys.stdin.readline(_MAX_PASTED_BYTES).strip()
    if not code:
        raise click.UsageError("There is no code on stdin.")
    return code


class Terminal:
    """The user at the terminal.

    Args:
        redirect_uri: Where the callback goes.
        is_opened: Whether a browser is to be started.
    """

    def __init__(self, redirect_uri: str, *, is_opened: bool) -> None:
        self._redirect_uri = redirect_uri
        self._is_opened = is_opened

    def open(self, url: str) -> None:
        """Show an address, and open it in a browser if there is one."""
        is_opened = self._is_opened and open_browser(url)
        self.tell("Opening your browser at this address:" if is_opened else "Open this address in a browser:")
        self.tell(url)
        self.tell(_ADVICE.format(self._redirect_uri))
        if platform.can_be_polled(sys.stdin):
            self.tell("If the browser runs on another machine: paste here the address at which it ends.")

    def pasted(self) -> str:
        """Return the line that was pasted since the last call, without waiting."""
        # Not by sys.stdin, whose buffer could hold a second line that select() knows nothing of.
        if not platform.can_be_polled(sys.stdin) or not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        return os.read(sys.stdin.fileno(), _MAX_PASTED_BYTES).decode(errors="replace")

    def tell(self, text: str) -> None:
        """Show a line."""
        echo_escaped(text, err=True)


def _report(name: str, done: SignedIn, *, as_json: bool) -> None:
    for warning in done.warnings:
        echo_escaped(f"Warning: {warning}.", err=True)
    record = done.record
    echo_escaped(f"Signed in {record.user_name or 'a user without a name'}: token {record.id} in {name}.", err=True)
    if as_json:
        print_json(record_as_json(record))
    else:
        echo_escaped(record.id)
