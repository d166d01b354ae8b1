"""Every function and class that takes a key, a path or an address, called with secret ones so that it fails."""

from __future__ import annotations

import inspect as python
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from cryptography.fernet import Fernet

from faults.secret_inputs import Ends, ErrorPath, Scene
from zoho_keystore import backup, diagnose, open_keystore, restore, rotate
from zoho_keystore._importers import read
from zoho_keystore._open import FILE_VARIABLE
from zoho_keystore._operations.backup import compare, inspect
from zoho_keystore._operations.copying import copy
from zoho_keystore._operations.key_usage import key_usage
from zoho_keystore._operations.ring_keys import add_key, prune
from zoho_keystore._operations.setup import init, init_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.leaks import Canaries

#: They work without a store, or return what they find.
_NEED_NOT_FAIL = {"diagnose", "init", "init_store", "key_usage"}

#: Addresses that are refused, and whose parts hold a password.
_REFUSED = (
    "postgresql://user:PASSWORD@127.0.0.1:1/d",
    "mysql://user@127.0.0.1:1/d?password=PASSWORD",
    "postgresql://user:a/PASSWORD@127.0.0.1:1/d",
    "oracle://user:PASSWORD@127.0.0.1:1/d",
)


#: A store of another key, and one that is missing, each in a file and in a database.
_STORES = {
    "a file": "{}/s",
    "a database": "sqlite:///{}/s.db",
    "a missing file": "{}/none/s",
    "a missing database": "sqlite:///{}/none/s.db",
}


def failing_calls(canaries: Canaries) -> Iterator[ErrorPath]:
    """Yield the paths."""
    refused = {what: what.replace("PASSWORD", canaries.password) for what in _REFUSED}
    for name, call in _calls().items():
        yield from _with_keys(name, call, canaries.key)
        ends = Ends.ANYHOW if name in _NEED_NOT_FAIL else Ends.IN_ERROR
        for what, address in refused.items():
            yield ErrorPath(f"{name} of {what}", partial(_called, call, address, {"key": canaries.key}), ends)
            yield ErrorPath(f"{name} of {what} in the variable", partial(_in_variable, call, address), ends)
    yield from _with_connect_args(canaries)
    for name, other in _calls_with_another(canaries).items():
        for what, text in {**refused, "a key": canaries.key.decode()}.items():
            yield ErrorPath(f"{name} {what}", partial(_with_another, other, text))


def _with_keys(name: str, call: Callable[..., object], key: bytes) -> Iterator[ErrorPath]:
    keys: dict[str, Any] = {"another key": key, "half a key": key[:-1], "a key as text": key.decode()}
    wrong: dict[str, dict[str, Any]] = {what: {"key": wrong} for what, wrong in keys.items()}
    times = {"lock_timeout", "refresh_wait", "session_timeout"} & python.signature(call).parameters.keys()
    wrong |= {option: {"key": key, option: -1} for option in sorted(times)}
    for where, path in _STORES.items():
        for what, options in wrong.items():
            ends = Ends.ANYHOW if name in _NEED_NOT_FAIL else Ends.IN_ERROR
            yield ErrorPath(f"{name} of {where}: {what}", partial(_called, call, path, options), ends)


def _with_connect_args(canaries: Canaries) -> Iterator[ErrorPath]:
    server = "postgresql://user@127.0.0.1:1/d"
    for what, address, arguments in (
        ("a password", server, {"password": canaries.password}),
        ("a password alone", server, canaries.password),
        ("an option", f"{server}?options={canaries.password}", None),
    ):
        options = {"key": canaries.key, "connect_args": arguments}
        for name in ("open_keystore", "EncryptedSQLStore"):
            yield ErrorPath(f"{name} with {what} for a server", partial(_called, _calls()[name], address, options))


def _calls() -> dict[str, Callable[..., object]]:
    """Return what takes a path first, and a key."""
    from zoho_keystore import EncryptedFileStore, EncryptedSQLStore  # noqa: PLC0415 - the SDK takes 0.7 s to import

    def diagnosed(path: Any, *, key: Any) -> None:
        click.echo(diagnose(path, key=key))

    return {
        "open_keystore": open_keystore,
        "EncryptedFileStore": EncryptedFileStore,
        "EncryptedSQLStore": EncryptedSQLStore,
        "rotate": rotate,
        "backup": partial(backup, destination="copy"),
        "restore": partial(restore, source="s"),
        "compare": partial(compare, source="s"),
        "copy": partial(copy, destination="copy"),
        "inspect": inspect,
        "prune": prune,
        "key_usage": key_usage,
        "init": init,
        "init_store": init_store,
        "diagnose": diagnosed,
    }


def _calls_with_another(canaries: Canaries) -> dict[str, Callable[[str], object]]:
    """Return what takes a path or a key that is not the store's."""
    key: Any = canaries.key
    return {
        "a backup to": lambda text: backup("s", text, key=key),
        "restoring": lambda text: restore("s", text, key=key),
        "comparing with": lambda text: compare("s", text, key=key),
        "a copy to": lambda text: copy("s", text, key=key),
        "a copy with the source's key": lambda text: copy("s", "copy", key=key, from_key=text),
        "a rotation to": lambda text: rotate("s", key=key, new=text),
        "adding to": add_key,
        "an import from": read,
        "an import with": lambda text: read("s", from_key=text),
    }


def _called(call: Callable[..., object], path: str, options: dict[str, Any], scene: Scene) -> None:
    open_keystore("s", key=Fernet.generate_key()).close()
    if path == _STORES["a database"]:
        open_keystore(path.format(scene.directory), key=Fernet.generate_key()).close()
    call(path.format(scene.directory), **options)


def _in_variable(call: Callable[..., object], address: str, scene: Scene) -> None:
    os.environ[FILE_VARIABLE] = address
    call(None, key=scene.key)


def _with_another(call: Callable[[str], object], text: str, scene: Scene) -> None:
    open_keystore("s", key=scene.key).close()
    call(text)
