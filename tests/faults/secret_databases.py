"""Uses of a store in a database, with each call of its driver failing once, and with rows that were tampered with."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

from faults.secret_inputs import Ends, ErrorPath, Scene
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage.sql.sessions import Database
from zoho_keystore._storage.sql.storage import SQLStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults.leaks import Canaries
    from zoho_keystore._keystore import Keystore

Uses = dict[str, "Callable[[Keystore], object]"]

#: SQL that tampers with the first row or with the store's own.
_TAMPERED = {
    "garbage in a row": "UPDATE zoho_keystore_token SET sealed = 'garbage'",
    "another version of a row": "UPDATE zoho_keystore_token SET version = 9",
    "another place of a row": "UPDATE zoho_keystore_token SET seq = 9",
    "an unknown key": "UPDATE zoho_keystore_store SET key_names = '01234567'",
    "a newer format": "UPDATE zoho_keystore_store SET format = 9",
    "the store gone": "DELETE FROM zoho_keystore_store",
    "a table gone": "DROP TABLE zoho_keystore_token",
}


def failing_databases(canaries: Canaries, uses: Uses) -> Iterator[ErrorPath]:
    """Yield the paths.

    Args:
        canaries: The secrets.
        uses: What is done with a store.
    """
    changes: Uses = {
        "change of a user": lambda store: store.save(canaries.record(id="1", user_name="another")),
        "new record": lambda store: store.save(TokenRecord(access_token=canaries.fields["access_token"])),
        "import": lambda store: store.import_records([canaries.record(id="7", refresh_token="another")]),
        "rotation": lambda store: _sql_storage(store).reencrypt(_sql_storage(store).require_open().keys),
    }
    uses = uses | changes
    for name, use in uses.items():
        yield ErrorPath(f"{name} of a closed store in a database", partial(_closed, use), Ends.ANYHOW)
        for what, statement in _TAMPERED.items():
            yield ErrorPath(f"{name} with {what}", partial(_tampered, use, statement), Ends.ANYHOW)
        for number in range(1, 9):
            yield ErrorPath(
                f"{name}, call {number} of the driver failing", partial(_failing_at, use, number), Ends.ANYHOW
            )
    yield ErrorPath("a database that is not there", _not_there)


def _sql_storage(store: Keystore) -> SQLStorage:
    storage = store._storage
    assert isinstance(storage, SQLStorage)
    return storage


def _open(scene: Scene) -> Keystore:
    return open_keystore(f"sqlite:///{scene.directory}/tokens.db", key=scene.key, lock_timeout=0, refresh_wait=0.1)


def _stored(scene: Scene) -> Keystore:
    store = _open(scene)
    store.save(scene.canaries.record())
    return store


def _closed(use: Callable[[Keystore], object], scene: Scene) -> None:
    store = _stored(scene)
    store.close()
    use(store)


def _tampered(use: Callable[[Keystore], object], statement: str, scene: Scene) -> None:
    with closing(_stored(scene)) as store:
        with closing(sqlite3.connect(scene.directory / "tokens.db")) as connection, connection:
            connection.execute(statement)
        use(store)


def _failing_at(use: Callable[[Keystore], object], number: int, scene: Scene) -> None:
    with closing(_stored(scene)) as store, _driver_failing(number):
        use(store)


def _not_there(scene: Scene) -> None:
    with _driver_failing(1):
        _open(scene)


@contextmanager
def _driver_failing(number: int) -> Iterator[None]:
    """Let one call of the driver fail with an error that a driver has no better name for."""
    real, calls = Database.call, [0]

    def call(self: Database, function: Callable[..., Any], *arguments: Any, in_commit: bool = False) -> Any:
        calls[0] += 1

        def failing(*_: Any) -> None:
            raise sqlite3.OperationalError("the driver fails")

        return real(self, failing if calls[0] == number else function, *arguments, in_commit=in_commit)

    with mock.patch.object(Database, "call", call):
        yield
