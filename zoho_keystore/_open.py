"""Open a keystore: the one place where paths, keys and storages meet."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions
from zoho_keystore._fs.directory import make_directories
from zoho_keystore._fs.paths import default_store, real_path
from zoho_keystore._fs.private_file import read_prefix
from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keys.spec import split_spec
from zoho_keystore._keystore import Keystore
from zoho_keystore._sql.address import DEFAULT_PREFIX, is_sql_address, parse_address
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore._storage.store_file import not_a_keystore
from zoho_keystore.errors import ConfigurationError, KeystoreError, KeyUnavailableError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any, TypeAlias

    from zoho_keystore._keys.sources import HiddenKey, KeyArgument
    from zoho_keystore._sql.address import SQLAddress
    from zoho_keystore._sql.engine import ConnectArguments
    from zoho_keystore._storage.sql.storage import SQLStorage

    HiddenPath: TypeAlias = Hidden[str | os.PathLike[str] | None]
    #: The ``path`` argument of a public function, or the same on its way down.
    PathArgument: TypeAlias = str | os.PathLike[str] | HiddenPath | None

FILE_VARIABLE = "ZOHO_KEYSTORE_FILE"

_FILE_LOCK_TIMEOUT_S = 10.0
#: A cluster takes some seconds to go on after the loss of a server.
_SQL_LOCK_TIMEOUT_S = 30.0


def open_keystore(
    path: str | os.PathLike[str] | None = None,
    *,
    key: bytes | str | None = None,
    lock_timeout: float | None = None,
    refresh_wait: float = 10.0,
    session_timeout: float | None = None,
    prefix: str | None = None,
    connect_args: Mapping[str, Any] | None = None,
    create: bool = True,
) -> Keystore:
    """Open the keystore in a file or a database, without the SDK.

    Args:
        path: The file; or the address of a database, as for ``EncryptedSQLStore``. None is what ``ZOHO_KEYSTORE_FILE``
            names, else ``tokens.keystore`` in the user's data directory, which is created if need be; the directory of
            a file that was named has to be there.
        key: A Fernet key as bytes; or where keys come from, as text: ``env:NAME``, ``file:PATH``,
            ``keyring:SERVICE/USER`` or ``command:ARGV``; or None for the first that is there of ``ZOHO_KEYSTORE_KEY``
            (one or more keys, comma-separated, newest first), ``ZOHO_KEYSTORE_KEYRING`` (the path of a key ring file)
            and the key ring in the user's config directory.
        lock_timeout: For how many seconds a write waits for the store's lock, and any call for a database that has gone
            away. None is 10 for a file, 30 for a database.
        refresh_wait: For how many seconds a caller that is about to use an expired token waits for another thread or
            process that refreshes it; 0 switches this off.
        session_timeout: For how many seconds from its sign-in on a token is handed out; then it is taken for absent,
            and the user has to sign in again. None is for ever.
        prefix: In a database, the names of the tables start with it. None is the ``?prefix=…`` of the address, else
            ``zoho_keystore``.
        connect_args: In a database, arguments for the driver's ``connect()``.
        create: Whether to create the file or the tables, without tokens, when they are missing.

    Raises:
        KeystoreError: One of its kinds, for whatever failed; nothing was changed then.
    """
    hidden_path, hidden_key, hidden_args = Hidden(path), Hidden(key), Hidden(connect_args)
    del path, key, connect_args  # See zoho_keystore._hidden.
    if (address := address_of(hidden_path)) is not None:
        return open_sql_keystore(
            address,
            key=hidden_key,
            lock_timeout=_SQL_LOCK_TIMEOUT_S if lock_timeout is None else lock_timeout,
            refresh_wait=refresh_wait,
            session_timeout=session_timeout,
            prefix=prefix,
            connect_args=hidden_args,
            create=create,
        )
    return open_file_keystore(
        hidden_path,
        key=hidden_key,
        lock_timeout=_FILE_LOCK_TIMEOUT_S if lock_timeout is None else lock_timeout,
        refresh_wait=refresh_wait,
        session_timeout=session_timeout,
        create=create,
    )


def address_of(path: PathArgument) -> SQLAddress | None:
    """Return the database that a path argument means; None if it means a file.

    Raises:
        ConfigurationError: The address is refused, or a library is not installed.
    """
    path = Hidden.of(path)
    return without_frames(lambda: _address_of(path.value))


def _address_of(path: object) -> SQLAddress | None:
    given = os.environ.get(FILE_VARIABLE) if path is None else path
    return _address(given) if isinstance(given, str) and is_sql_address(given) else None


def required_address(url: Hidden[str]) -> SQLAddress:
    """Return the database of an argument that has to be an address.

    Raises:
        ConfigurationError: It is none, or is refused; or a library is not installed.
    """
    return without_frames(lambda: _address(url.value))


def _address(url: object) -> SQLAddress:
    if not isinstance(url, str) or looks_like_key(url):
        raise ConfigurationError("the address of the database is none", "Write postgresql://USER@HOST:5432/DATABASE")
    return parse_address(url)


def open_file_keystore(
    path: HiddenPath,
    *,
    key: HiddenKey,
    lock_timeout: float,
    refresh_wait: float,
    session_timeout: float | None,
    create: bool = True,
) -> Keystore:
    """Open the keystore in a file; otherwise as :func:`open_keystore`."""
    lock_timeout_s = as_seconds("lock_timeout", lock_timeout)
    refresh_wait_s = as_seconds("refresh_wait", refresh_wait)
    session_timeout_s = None if session_timeout is None else as_seconds("session_timeout", session_timeout)
    file = store_path(path)
    # Also one of the variable: a command from the log of a service is pasted where the variable is not set.
    is_default = path.value is None and not os.environ.get(FILE_VARIABLE)
    named = (None if is_default else str(file)), spec_for_messages(key)
    try:
        ring = key_ring(key)
        if create and is_default:
            make_directories(file.parent)
        storage = FileStorage(file, ring, lock_timeout=lock_timeout_s, create=create)
    except KeystoreError as error:
        problem = explained(error, file)
        problem.name_store(*named)
        if problem is error:
            raise
    else:
        return Keystore(storage, refresh_wait=refresh_wait_s, session_timeout=session_timeout_s, named=named)
    raise problem


def open_sql_keystore(
    address: SQLAddress,
    *,
    key: HiddenKey,
    lock_timeout: float,
    refresh_wait: float,
    session_timeout: float | None,
    prefix: str | None = None,
    connect_args: ConnectArguments = None,
    create: bool = True,
) -> Keystore:
    """Open the keystore in a database; the other arguments are those of ``EncryptedSQLStore``."""
    connect_args = Hidden.of(connect_args)
    refresh_wait_s = as_seconds("refresh_wait", refresh_wait)
    session_timeout_s = None if session_timeout is None else as_seconds("session_timeout", session_timeout)
    storage = open_sql_storage(
        address, key=key, lock_timeout=lock_timeout, prefix=prefix, connect_args=connect_args, create=create
    )
    named = storage.name, spec_for_messages(key)
    return Keystore(storage, refresh_wait=refresh_wait_s, session_timeout=session_timeout_s, named=named)


def open_sql_storage(
    address: SQLAddress,
    *,
    key: HiddenKey,
    lock_timeout: float = _SQL_LOCK_TIMEOUT_S,
    prefix: str | None = None,
    connect_args: ConnectArguments = None,
    create: bool = True,
) -> SQLStorage:
    """Open the storage in a database; the other arguments are those of ``EncryptedSQLStore``."""
    connect_args = Hidden.of(connect_args)
    lock_timeout_s = as_seconds("lock_timeout", lock_timeout)
    if prefix is not None and prefix != (address.prefix or DEFAULT_PREFIX):
        if address.prefix is not None:
            raise ConfigurationError(
                "the prefix of the tables is not the one in the address", "Give it once: prefix=…, or ?prefix=…"
            )
        # Messages and commands have to name this store, not the one without a prefix.
        address = address.with_prefix(prefix)
    try:
        ring = key_ring(key)
        # SQLAlchemy is an extra, and takes a third of a second to import.
        from zoho_keystore._storage.sql.storage import SQLStorage  # noqa: PLC0415 - as above

        return SQLStorage(
            address,
            ring,
            lock_timeout=lock_timeout_s,
            prefix=address.prefix or DEFAULT_PREFIX,
            connect_args=connect_args,
            create=create,
            key_spec=spec_for_messages(key),
        )
    except KeystoreError as error:
        error.name_store(address.name, spec_for_messages(key))
        raise


def open_memory_keystore(*, refresh_wait: float = 10.0) -> Keystore:
    """Return an empty keystore in memory.

    Args:
        refresh_wait: As for :func:`open_keystore`, between threads.
    """
    return Keystore(MemoryStorage(), refresh_wait=as_seconds("refresh_wait", refresh_wait))


def as_seconds(name: str, value: float) -> float:
    """Return an argument that is a length of time, which may be infinite.

    Raises:
        ConfigurationError: It is not a number of seconds from 0 on.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if seconds >= 0:
            return seconds
    raise ConfigurationError(f"{name} is not a number of seconds", "Give 0 or more")


def spec_for_messages(key: KeyArgument) -> str | None:
    """Return the spec of keys as messages may repeat it; None if it is none, or perhaps a key by mistake."""
    given = Hidden.of(key).value
    if not isinstance(given, str) or looks_like_key(given) or not split_spec(given)[0]:
        return None
    # The arguments of the program may hold a secret.
    return "command:…" if given.startswith("command:") else given


def explained(error: KeystoreError, store: Path) -> KeystoreError:
    """Return an error of opening a store; for a missing key, what that means where there is a file already.

    A new key, which the source of keys advises, would not open it. A store of another user has its key there.
    """
    if not (isinstance(error, KeyUnavailableError) and error.is_missing and os.path.lexists(store)):
        return error
    with suppress(OSError, KeystoreError):
        if other := not_a_keystore(store, read_prefix(store, 512).content):
            return other
    with suppress(OSError):
        try:
            permissions.require_owner(os.stat(store), store)
        except UnsafeFileError as owned_by_another:
            return owned_by_another
    moved = store.with_name(f"{store.name}.without-key")
    where = f"{error.path}: " if error.path is not None else ""
    return KeyUnavailableError(
        f"the store is there, and its key is not: {where}{error.problem}",
        "Check where its key is, or restore your copy of the key. Without the key the store cannot be opened: move it "
        f"away, and sign in anew: {platform.move_command(store, moved)}{platform.choose(' &&', ';')} "
        "zoho-keystore init",
        store,
    )


def store_path(path: PathArgument) -> Path:
    """Return the file that a path argument means: a given one, else that of ``ZOHO_KEYSTORE_FILE``, else the default.

    Nothing is created.

    Raises:
        ConfigurationError: It is not a path, or the address of a database.
        UnsafeFileError: It leads over a symbolic link of another user.
    """
    path = Hidden.of(path)
    return without_frames(lambda: _store_path(path.value))


def _store_path(path: str | os.PathLike[str] | None) -> Path:
    given = path if path is not None else os.environ.get(FILE_VARIABLE) or None
    return real_path(default_store()) if given is None else _file_path(given)


def file_path(path: Hidden[str | os.PathLike[str]]) -> Path:
    """Return the file that a path argument means which has no default; otherwise as :func:`store_path`."""
    return without_frames(lambda: _file_path(path.value))


def _file_path(given: str | os.PathLike[str]) -> Path:
    if isinstance(given, str | bytes | os.PathLike) and looks_like_key(os.fsdecode(given)):
        raise ConfigurationError("the path holds what looks like a key", "Pass the key as key=…, and a path as path")
    if isinstance(given, str) and is_sql_address(given):
        raise ConfigurationError(
            "the address of a database was given where the path of a file is needed",
            "Pass the path of a file; a program that keeps its tokens in a database uses EncryptedSQLStore",
        )
    return real_path(given)
