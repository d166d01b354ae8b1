"""Copy all tokens of a store into another one: from a file into a database, between databases, and back."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoho_keystore._fs.paths import is_same_file
from zoho_keystore._hidden import Hidden
from zoho_keystore._keystore import storage_of
from zoho_keystore._open import open_keystore, spec_for_messages
from zoho_keystore._text import cli_command, count
from zoho_keystore.errors import KeystoreError, StoreFileError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from zoho_keystore._keys.sources import HiddenKey
    from zoho_keystore._records import TokenRecord
    from zoho_keystore._storage import Storage, Transaction
    from zoho_keystore._storage.codec import Header


@dataclass(frozen=True)
class Copied:
    """The result of a copy.

    Attributes:
        source: The name of the store that was copied.
        destination: The name of the store that has the copy.
        count: How many tokens were copied.
    """

    source: str
    destination: str
    count: int


def copy(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    key: str | None = None,
    from_key: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Copied:
    """Copy all tokens of a store into an empty one, with their ids and times, and compare the two afterwards.

    Leases are not copied: they belong to processes that use the source. Programs that save to the source meanwhile are
    noticed, and have to be stopped.

    Args:
        source: The store, as for :func:`open_keystore`; it has to exist.
        destination: The other store, likewise; a missing one is created.
        key: Where the keys of the destination come from, as for :func:`open_keystore`.
        from_key: Where those of the source come from; None is the same as ``key``.
        progress: Called with the numbers of tokens that are done and of all.

    Raises:
        StoreFileError: The destination holds tokens, or is the source, or the source has changed meanwhile.
        KeystoreError: One of the stores cannot be opened, read or written.
    """
    hidden_source, hidden_destination = Hidden(source), Hidden(destination)
    hidden_key, source_key = Hidden(key), Hidden(key if from_key is None else from_key)
    from_spec = spec_for_messages(from_key)
    del source, destination, key, from_key  # See zoho_keystore._hidden.
    with (
        closing(open_keystore(hidden_source.value, key=source_key.value, create=False)) as old,
        closing(open_keystore(hidden_destination.value, key=hidden_key.value)) as new,
    ):
        given, taken = storage_of(old), storage_of(new)
        with _commands_for(given, source_key):
            records = without_leases(given.records())
            header = given.header()
        with _commands_for(taken, hidden_key):
            if _is_same(given, taken):
                raise StoreFileError("the two stores are the same; nothing was copied", "Give another destination")
            if number := _put_all(header, taken, records, progress):
                raise StoreFileError(
                    f"{taken.name} holds {count(number, 'token')} already; nothing was copied",
                    f"Give an empty destination{_import_instead(given, from_spec)}",
                )
            _require_same(without_leases(taken.records()), records, f"{taken.name} does not hold what was copied")
        with _commands_for(given, source_key):
            found = without_leases(given.records())
        with _commands_for(taken, hidden_key):
            # A program that has saved to the source since would go on with the old token after the move.
            _require_same(found, records, f"{given.name} has changed since it was read")
        return Copied(given.name, taken.name, len(records))


@contextmanager
def _commands_for(storage: Storage, key: HiddenKey) -> Iterator[None]:
    """Make the commands in errors work on one of the two stores: without it, they would work on the default one."""
    try:
        yield
    except KeystoreError as error:
        error.name_store(storage.name, spec_for_messages(key))
        raise


def _is_same(given: Storage, taken: Storage) -> bool:
    if given.path is not None and taken.path is not None:
        return is_same_file(given.path, taken.path)
    # Two addresses may lead to one database; a copy in a file has the id of the store that it is a copy of.
    return given.path is None and taken.path is None and given.header().store_id == taken.header().store_id


def without_leases(records: Iterable[TokenRecord]) -> list[TokenRecord]:
    """Return records without the leases of processes that refresh them."""
    return [replace(record, refresh=None) for record in records]


def _put_all(
    header: Header, taken: Storage, records: Sequence[TokenRecord], progress: Callable[[int, int], None]
) -> int:
    """Put all records into a store, unless it holds some: return how many."""

    def work(transaction: Transaction) -> int:
        if number := len(transaction.records()):
            return number
        for done, record in enumerate(records, 1):
            transaction.put(record)
            progress(done, len(records))
        transaction.take_over(header)
        return 0

    return taken.transact(work)


def _import_instead(given: Storage, from_spec: str | None) -> str:
    """Return the rest of an advice; no database of ours can be imported."""
    if given.path is None:
        return ""
    options = [] if from_spec is None else ["--from-key", from_spec]
    return f", or add the tokens to it with: {cli_command('import', given.name, *options, store=None, key=None)}"


def _require_same(found: Sequence[TokenRecord], expected: Sequence[TokenRecord], problem: str) -> None:
    if list(found) != list(expected):
        raise StoreFileError(
            f"{problem}; the copy is not complete",
            "Stop the programs that use the two stores, empty the destination (zoho-keystore delete --all), and copy "
            "again",
        )
