"""Error paths for the hunt for secrets: sign-ins, refreshes and revocations at a Zoho that repeats what it was sent."""

from __future__ import annotations

import io
import json
import os
import secrets
import socket
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from unittest import mock
from urllib.parse import parse_qs, quote, urlsplit

import click
import httpx
import requests

from fake_zoho import FakeZoho, Fault
from faults.mutants import do_not_pause_between_requests
from faults.secret_inputs import Ends, ErrorPath, Scene
from zoho_keystore._cli import main
from zoho_keystore._keys.sources import KEY_VARIABLE
from zoho_keystore._oauth.data_centres import data_centre
from zoho_keystore._oauth.endpoints import Client
from zoho_keystore._operations import revocation, sign_in
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from faults.leaks import Canaries
    from zoho_keystore._keystore import Keystore

_Use: TypeAlias = "Callable[[Scene, Keystore], object]"

_BY_BROWSER = "a sign-in by browser"

#: The size that a PKCE verifier is made with; the state has another.
_VERIFIER_BYTES = 64


def wrong_replies(canaries: Canaries) -> Iterator[ErrorPath]:
    """Yield the paths of everything that asks Zoho, with each reply that it may get, and of wrong sign-ins."""
    do_not_pause_between_requests()
    with FakeZoho() as zoho:
        sign_ins = _sign_ins(zoho, canaries, _User(canaries.plain["grant_token"]))
        refusals, tokens = _refusals(canaries), _tokens(canaries)
        # These take longer, and differ from the others in what is around the request.
        slow = {_BY_BROWSER: sign_ins.pop(_BY_BROWSER), **_requests(zoho)}
        cases: list[tuple[Mapping[str, Fault], Mapping[str, _Use], Ends]] = [
            (refusals, _REFRESHES | sign_ins, Ends.IN_ERROR),
            ({name: refusals[name] for name in ("invalid_code", "a throttle", "nothing")}, slow, Ends.IN_ERROR),
            # A record that Zoho does not know is deleted, which is no error.
            (refusals, _REVOCATIONS, Ends.ANYHOW),
            (tokens, _REFRESHES | sign_ins, Ends.ANYHOW),
        ]
        for replies, uses, ends in cases:
            for name, use in uses.items():
                for what, reply in replies.items():
                    yield ErrorPath(f"{name}, answered by {what}", partial(_answered, zoho, reply, use), ends)
        for name, use in _bad_sign_ins(zoho, canaries).items():
            yield ErrorPath(name, partial(_answered, zoho, tokens["tokens"], use))


def _answered(zoho: FakeZoho, reply: Fault, use: _Use, scene: Scene) -> None:
    zoho.clear_faults()
    for kind in ("token", "revoke", "device_token"):
        zoho.reply_next(reply, 2, kind)
    with closing(scene.stored()) as keystore:
        keystore.change("1", lambda one, _: replace(one, accounts_url=zoho.url))
        use(scene, keystore)


def _refusals(canaries: Canaries) -> dict[str, Fault]:
    echo = " ".join(canaries.plain.values())
    names = ("invalid_code", "invalid_client", "invalid_client_secret", "access_denied", "other_dc")
    return {
        **{name: Fault.error(name, 400, echo) for name in names},
        "a throttle": Fault.error("Access Denied", 400, f"too many requests {echo}"),
        "an error that is a secret": Fault.error(canaries.plain["client_secret"], 401, echo),
        "secrets alone": Fault.text(echo),
        "a list of secrets": Fault.json([*canaries.plain.values()]),
        "a page of secrets": Fault.text(f"<html>{echo}</html>", 502),
        "half a reply": Fault.cut(),
        "nothing": Fault.closed(),
        "a redirect with secrets": Fault.redirect(f"http://127.0.0.1:1/?{quote(echo)}"),
        "other types": Fault.json({"access_token": [canaries.plain["access_token"]], "status": echo}),
    }


def _tokens(canaries: Canaries) -> dict[str, Fault]:
    access, refresh = (canaries.plain[name] for name in ("access_token", "refresh_token"))
    whole = {"access_token": access, "refresh_token": refresh}
    return {
        "tokens": Fault.json(whole),
        "no refresh token": Fault.json({"access_token": access}),
        "no access token": Fault.json({"refresh_token": refresh}),
        "a malformed access token": Fault.json({**whole, "access_token": f"{access}\n"}),
        "a secret in a server's address": Fault.json({**whole, "api_domain": f"https://{access}@127.0.0.1"}),
        "secrets for scopes and a life": Fault.json({**whole, "scope": access, "expires_in": access}),
    }


def _run(*arguments: str, stdin: str = "", **environment: str) -> _Use:
    """Return a command on the store. Its stdout is not looked at: ``token`` prints the token there."""

    def run(scene: Scene, _keystore: Keystore) -> None:
        environment[KEY_VARIABLE] = scene.key.decode()
        streams = mock.patch.multiple(sys, stdin=io.StringIO(stdin), stdout=io.StringIO())
        with mock.patch.dict(os.environ, environment), streams:
            try:
                main(["--store", str(scene.path), *arguments], standalone_mode=False)
            except click.ClickException as failure:
                failure.show()
                raise

    return run


def _cleanup(scene: Scene, keystore: Keystore) -> None:
    keystore.change("1", lambda one, _: replace(one, refused_at=1))
    _run("cleanup", "--unusable", "--revoke", "--yes")(scene, keystore)


_REFRESHES: dict[str, _Use] = {
    "access_token()": lambda _, keystore: keystore.access_token("1"),
    "token": _run("token", "1"),
    "exec": _run("exec", "1", "--", "not-a-program"),
    "refresh": _run("refresh", "1", "--force"),
}

_REVOCATIONS: dict[str, _Use] = {
    "a revocation": lambda _, keystore: revocation.revoke(keystore, "1"),
    "revoke": _run("revoke", "1", "--yes"),
    "cleanup": _cleanup,
}


def _requests(zoho: FakeZoho) -> dict[str, _Use]:
    url, hosts = f"{zoho.url}/crm/v8/users", ["127.0.0.1", "localhost"]
    return {
        "auth()": lambda _, keystore: requests.get(url, auth=keystore.auth("1", hosts=hosts), timeout=9),
        "httpx_auth()": lambda _, keystore: httpx.get(url, auth=keystore.httpx_auth("1", hosts=hosts)),
    }


class _User:
    """A user who pastes the address of the callback, and may do something before the code is exchanged."""

    def __init__(self, code: str, more: str = "", meanwhile: Callable[[], object] = lambda: None) -> None:
        self.code = code
        self._more = more
        self._meanwhile = meanwhile
        self._callback = ""

    def open(self, url: str) -> None:
        """Go to Zoho, and come back with a code."""
        sent = parse_qs(urlsplit(url).query)
        self._callback = f"{sent['redirect_uri'][0]}?code={self.code}&state={sent['state'][0]}{self._more}"

    def pasted(self) -> str:
        """Return the address."""
        return self._callback

    def tell(self, text: str) -> None:
        """Show a line."""
        print(text)
        self._meanwhile()


def _sign_ins(zoho: FakeZoho, canaries: Canaries, user: _User) -> dict[str, _Use]:
    who = sign_in.SignIn(Client("client", canaries.fields["client_secret"]), data_centre(zoho.url))

    def by_browser(_: Scene, keystore: Keystore) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            here = replace(who, redirect_uri=f"http://127.0.0.1:{free.getsockname()[1]}/callback")
        # The state is shown, as a part of the address to open; the verifier never is.
        made = {_VERIFIER_BYTES: user.code}
        with mock.patch.object(secrets, "token_urlsafe", lambda size: made.get(size, "state")):
            sign_in.by_browser(keystore, here, timeout_s=5, user=user)

    def by_device(_: Scene, keystore: Keystore) -> None:
        codes = {"user_code": "AB12", "device_code": user.code, "verification_url": zoho.url, "interval": 0.001}
        zoho.reply_next(Fault.json(codes), to="device_code")
        sign_in.by_device(keystore, who, timeout_s=0.2, user=user)

    def by_credentials(_: Scene, keystore: Keystore) -> None:
        sign_in.by_client_credentials(keystore, who, soid="ZohoCRM.1")

    login = ("login", "--grant", "--dc", zoho.url, "--client-id", "client", "--client-secret", "env:CLIENT_SECRET")
    return {
        _BY_BROWSER: by_browser,
        "a sign-in by device": by_device,
        "a sign-in by code": lambda _, keystore: sign_in.by_code(keystore, who, user.code, user=user),
        "client credentials": by_credentials,
        "login": _run(*login, stdin=f"{user.code}\n", CLIENT_SECRET=canaries.plain["client_secret"]),
    }


def _bad_sign_ins(zoho: FakeZoho, canaries: Canaries) -> dict[str, _Use]:
    code, secret = canaries.plain["grant_token"], canaries.plain["client_secret"]

    def closed(name: str, scene: Scene, keystore: Keystore) -> None:
        _sign_ins(zoho, canaries, _User(code, meanwhile=keystore.close))[name](scene, keystore)

    def by_file(content: object, scene: Scene, keystore: Keystore) -> None:
        file = scene.plant(json.dumps(content).encode(), "self_client.json")
        _run("login", "--dc", zoho.url, "--self-client", str(file))(scene, keystore)

    def without_refresh_token(_: Scene, keystore: Keystore) -> None:
        malformed = TokenRecord(client_id="other", client_secret=secret, access_token=f"{secret}\n")
        keystore.access_token(keystore.save(malformed).id)

    login = ("login", "--grant", "--dc", zoho.url, "--client-id", "client")
    ways = (_BY_BROWSER, "a sign-in by device", "a sign-in by code")
    found: dict[str, _Use] = {
        **{f"{name}, into a store that is closed meanwhile": partial(closed, name) for name in ways},
        "login with a secret as a spec": _run(*login, "--client-secret", secret, stdin=code),
        "login with a secret as a variable": _run(*login, "--client-secret", f"env:{secret}", stdin=code),
        "login with two secrets": _run(*login, "--client-secret", "env:S", stdin=code, S=f"{secret}\n{secret}"),
        "login with a secret as a place": _run(*login, "--client-secret", "env:S", "--dc", secret, stdin=code, S="x"),
        "login without a code": _run(*login, "--client-secret", "env:S", S=secret),
        "login by a file without a code": partial(by_file, {"client_id": "client", "client_secret": secret}),
        "login by a file of secrets": partial(by_file, [secret]),
        "an access token without a refresh token": without_refresh_token,
    }
    for what in ("&accounts-server=https://elsewhere.example", "&error=access_denied", "&error=odd"):
        found[f"a callback with {what}"] = _sign_ins(zoho, canaries, _User(code, what))[_BY_BROWSER]
    return found
