"""Opening a keystore: which file, which key, which waits, and what is created."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import zoho_keystore
from support import assert_hides, failure_of, held, words_of
from zoho_keystore import EncryptedFileStore, EncryptedSQLStore, open_keystore
from zoho_keystore._fs import permissions
from zoho_keystore._open import (
    as_seconds,
    open_memory_keystore,
    store_path,
)
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    KeystoreError,
    KeyUnavailableError,
    LockTimeoutError,
    StoreFileError,
    StoreUnavailableError,
    TokenNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

#: The arguments of the functions that open one kind of store.

TOKEN = TokenRecord(client_id="c", client_secret="s", refresh_token="r", user_name="ann")


@pytest.fixture
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the user's data directory one that does not exist yet."""
    for name in ("XDG_DATA_HOME", "WIN_PD_OVERRIDE_LOCAL_APPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home" / "data"))
    return Path(os.path.realpath(tmp_path)) / "home" / "data"


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty directory the working directory."""
    directory = tmp_path / "working"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


# --- which file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
def test_open_creates_the_file_and_opens_it_again(kind: Callable[[Path], Any], store_path: Path, key: bytes) -> None:
    """Encrypted with the key, and with every field of what was saved."""
    keystore = open_keystore(kind(store_path), key=key)
    assert keystore.path == Path(os.path.realpath(store_path))
    saved = keystore.save(TOKEN)
    keystore.close()
    assert open_keystore(kind(store_path), key=key).records() == [saved]


def test_commands_in_errors_name_the_file_of_the_variable(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read in the log of a service, and pasted where its variable is not set."""
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", str(store_path))
    keystore = open_keystore(key=key)
    with pytest.raises(TokenNotFoundError) as caught:
        keystore.delete("9")
    assert caught.value.advice == f"List the ids with: zoho-keystore --store {store_path} list"


def test_open_without_create_refuses_a_missing_file(store_path: Path, key: bytes, data_directory: Path) -> None:
    """A command that reads must not leave an empty store behind; a file that is there opens."""
    for path in (store_path, None):
        with pytest.raises(StoreFileError, match="there is no store"):
            open_keystore(path, key=key, create=False)
    assert not store_path.exists()
    assert not data_directory.exists()
    saved = open_keystore(store_path, key=key).save(TOKEN)
    assert open_keystore(store_path, key=key, create=False).records() == [saved]


@pytest.mark.needs_modes
def test_open_without_path_takes_the_file_of_the_variable(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch, data_directory: Path
) -> None:
    """With a tilde too, which no shell expands in a unit file; nothing is created in the data directory."""
    monkeypatch.setenv("HOME", str(store_path.parent))
    for value in (str(store_path), f"~/{store_path.name}"):
        monkeypatch.setenv("ZOHO_KEYSTORE_FILE", value)
        assert open_keystore(key=key).path == Path(os.path.realpath(store_path))
    assert not data_directory.exists()


def test_open_prefers_the_path_to_the_variable(store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program knows better than its environment."""
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", str(store_path.with_name("other.keystore")))
    assert open_keystore(store_path, key=key).path == Path(os.path.realpath(store_path))
    assert not store_path.with_name("other.keystore").exists()


@pytest.mark.parametrize("variable", [None, ""], ids=["not-set", "empty"])
@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777], ids=oct)
def test_open_without_path_and_variable_creates_private_directories(
    key: bytes,
    *,
    variable: str | None,
    mask: int,
    monkeypatch: pytest.MonkeyPatch,
    data_directory: Path,
    umask: Callable[[int], int],
) -> None:
    """Each of those that are missing, whatever the umask; the second time the store is there."""
    if variable is not None:
        monkeypatch.setenv("ZOHO_KEYSTORE_FILE", variable)
    umask(mask)
    saved = open_keystore(key=key).save(TOKEN)
    file = data_directory / "zoho-keystore" / "tokens.keystore"
    for directory in (data_directory.parent, data_directory, file.parent) if permissions.HAS_OWNERS else ():
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keystore = open_keystore(key=key)
    assert (keystore.path, keystore.records()) == (file, [saved])


@pytest.mark.needs_modes
def test_open_leaves_the_mode_of_an_existing_directory(key: bytes, data_directory: Path) -> None:
    """It is the user's, and others may have files in it."""
    data_directory.mkdir(parents=True)
    data_directory.chmod(0o755)
    open_keystore(key=key)
    assert stat.S_IMODE(data_directory.stat().st_mode) == 0o755


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_open_does_not_create_the_directory_of_a_named_file(
    by: str, tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing mistake in it must not start an empty store somewhere else."""
    path = tmp_path / "missing" / "tokens.keystore"
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", str(path))
    with pytest.raises(StoreFileError, match="the directory has to exist"):
        open_keystore(path if by == "argument" else None, key=key)
    assert not path.parent.exists()


class PathLike:
    """A path object whose repr does not show its path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __fspath__(self) -> str:
        """Return the path."""
        return self._path


@pytest.mark.parametrize(
    "given",
    [str, str.encode, PathLike, lambda key: Path("directory") / key, "./{}".format, "KEY={}".format, None],
    ids=["str", "bytes", "PathLike", "Path", "relative", "assignment", "variable"],
)
def test_open_refuses_a_key_as_path_and_does_not_show_it(
    given: Callable[[str], Any] | None, key: bytes, working_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would become a file name that every user of the machine can read."""
    if given is None:
        monkeypatch.setenv("ZOHO_KEYSTORE_FILE", key.decode())
    with pytest.raises(ConfigurationError, match="looks like a key") as caught:
        open_keystore(None if given is None else given(key.decode()), key=key)
    assert key.decode() not in repr(caught.value)
    assert list(working_directory.iterdir()) == []


@pytest.mark.parametrize("path", ["", b"tokens.keystore", 5, "a\0b"], ids=["empty", "bytes", "number", "NUL"])
def test_open_refuses_what_is_no_path(path: Any, key: bytes, working_directory: Path) -> None:
    """Nothing is created."""
    with pytest.raises(ConfigurationError, match="path"):
        open_keystore(path, key=key)
    assert list(working_directory.iterdir()) == []


# --- which key ------------------------------------------------------------------------------------------------------


def test_open_without_a_key_creates_nothing(store_path: Path, data_directory: Path) -> None:
    """Neither the file nor the default directory."""
    for path in (store_path, None):
        with pytest.raises(KeyUnavailableError, match="no key is set"):
            open_keystore(path)
    assert not store_path.exists()
    assert not data_directory.exists()


def test_open_takes_the_key_of_the_variable(store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was given goes before it, and a wrong one does not open the file."""
    saved = open_keystore(store_path, key=key).save(TOKEN)
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    assert open_keystore(store_path).records() == [saved]
    with pytest.raises(CannotOpenError):
        open_keystore(store_path, key=b"YSBtYWRlLXVwIHRlc3Qga2V5LCBub3QgYSBzZWNyZXQ=")


# --- which waits ----------------------------------------------------------------------------------------------------

NO_SECONDS: dict[str, Any] = {
    "negative": -1,
    "slightly-negative": -0.001,
    "minus-infinity": -math.inf,
    "nan": math.nan,
    "text": "10",
    "None": None,
    "True": True,
    "False": False,
    "Decimal": Decimal(1),
    "list": [1],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}-{text}")
        for name in ("lock_timeout", "refresh_wait")
        for text, value in NO_SECONDS.items()
        if (name, value) != ("lock_timeout", None)  # The default.
    ],
)
def test_open_refuses_what_is_no_length_of_time(name: str, value: Any, store_path: Path, key: bytes) -> None:
    """Before anything is created; the message names the argument."""
    waits: Any = {name: value}
    with pytest.raises(ConfigurationError, match=rf"^{name} is not a number of seconds\. Give 0 or more"):
        open_keystore(store_path, key=key, **waits)
    assert not store_path.exists()
    if name == "refresh_wait":
        with pytest.raises(ConfigurationError, match=f"^{name} is not"):
            open_memory_keystore(**waits)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0, 0.0), (2, 2.0), (0.5, 0.5), (math.inf, math.inf), (10**400, math.inf)],
    ids=lambda value: f"{value!r:.12}",
)
def test_open_accepts_any_length_of_time(value: float, seconds: float, store_path: Path, key: bytes) -> None:
    """From no wait at all to one without end; one that no float can hold is as good as infinite."""
    assert as_seconds("some_timeout", value) == seconds
    assert isinstance(as_seconds("some_timeout", value), float)
    assert open_keystore(store_path, key=key, lock_timeout=value, refresh_wait=value).save(TOKEN).id == "1"
    assert open_memory_keystore(refresh_wait=value).save(TOKEN).id == "1"


def test_open_with_a_lock_timeout_of_zero_does_not_wait(store_path: Path, key: bytes) -> None:
    """Another process has the lock, and the file stays as it is."""
    holder = open_keystore(store_path, key=key)
    other = open_keystore(store_path, key=key, lock_timeout=0)
    before = store_path.read_bytes()
    with held(holder), pytest.raises(LockTimeoutError):
        other.save(TOKEN)
    assert store_path.read_bytes() == before
    assert other.save(TOKEN).id == "1"


def test_open_in_memory_is_empty_and_has_no_path() -> None:
    """Each one for itself."""
    open_memory_keystore().save(TOKEN)
    assert (open_memory_keystore().path, open_memory_keystore().records()) == (None, [])


# --- Databases ---


@pytest.mark.needs_posix_shell
def test_open_of_an_address_opens_the_store_in_the_database(tmp_path: Path, key: bytes) -> None:
    """Its name is in messages, and works as the store of commands."""
    address = f"sqlite:///{tmp_path}/s.db"
    with closing(open_keystore(address, key=key)) as keystore:
        assert (keystore.path, keystore.name) == (None, address)
        keystore.save(TOKEN)
        with pytest.raises(TokenNotFoundError) as caught:
            keystore.require("2")
    assert str(caught.value) == (
        f"there is no token '2' in {address}, which has 1 token. "
        f"List the ids with: zoho-keystore --store {address} list"
    )


@pytest.mark.needs_posix_shell
def test_open_takes_the_address_of_the_variable(tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the path of a file."""
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", f"sqlite:///{tmp_path}/s.db")
    with closing(open_keystore(key=key, prefix="other", connect_args={"timeout": 5})) as keystore:
        assert keystore.name == f"sqlite:///{tmp_path}/s.db?prefix=other"
    with sqlite3.connect(tmp_path / "s.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM other_store").fetchone() == (1,)
    connection.close()


@pytest.mark.needs_posix_shell
def test_open_names_the_prefix_that_was_given_beside_the_address(tmp_path: Path, key: bytes) -> None:
    """Its commands would otherwise work on the store without a prefix."""
    address = f"sqlite:///{tmp_path}/s.db"
    for given, prefix, name in (
        (address, "zoho_keystore", address),
        (address, None, address),
        (address, "one", f"{address}?prefix=one"),
        (f"{address}?prefix=two", "two", f"{address}?prefix=two"),
        (f"{address}?prefix=two", None, f"{address}?prefix=two"),
    ):
        with closing(open_keystore(given, key=key, prefix=prefix)) as keystore:
            assert keystore.name == name
            with pytest.raises(TokenNotFoundError) as caught:
                keystore.require("2")
        assert words_of(caught.value.advice.partition(": ")[2])[:3] == ["zoho-keystore", "--store", name]
    for prefix in ("one", "zoho_keystore"):
        with pytest.raises(ConfigurationError, match="not the one in the address"):
            open_keystore(f"{address}?prefix=two", key=key, prefix=prefix)


@pytest.mark.needs_posix_shell
def test_error_of_an_open_store_names_it_in_commands(tmp_path: Path, key: bytes) -> None:
    """And the source of its keys: they would otherwise work on the default store."""
    (tmp_path / "ring").write_bytes(key)
    (tmp_path / "ring").chmod(0o600)
    spec, address = f"file:{tmp_path}/ring", f"sqlite:///{tmp_path}/s.db"
    with closing(open_keystore(address, key=spec, prefix="mine")) as keystore:
        with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
            connection.execute("DROP TABLE mine_token")
        for use in (lambda: keystore.get("1"), lambda: keystore.save(TOKEN)):
            error, _ = failure_of(use, StoreFileError)
            words = words_of(error.advice.partition(": ")[2])
            assert words == ["zoho-keystore", "--store", f"{address}?prefix=mine", "--key", spec, "init"]


@pytest.mark.needs_posix_shell
def test_open_of_a_database_that_is_not_to_be_made_names_the_command(tmp_path: Path, key: bytes) -> None:
    """With the address and the key that were given."""
    address = f"sqlite:///{tmp_path}/s.db"
    (tmp_path / "ring").write_bytes(key)
    (tmp_path / "ring").chmod(0o600)
    spec = f"file:{tmp_path}/ring"
    with pytest.raises(StoreFileError) as caught:
        open_keystore(address, key=spec, create=False)
    assert f"zoho-keystore --store {address} --key {spec} init" in str(caught.value)


@pytest.mark.parametrize("use", [store_path, EncryptedFileStore])
def test_address_in_the_place_of_a_file_is_refused(use: Callable[[str], object]) -> None:
    """It would make a directory named postgresql: otherwise."""
    with pytest.raises(ConfigurationError, match="the address of a database was given where the path"):
        use("postgresql://localhost/keystore")


@pytest.mark.parametrize("url", [None, "tokens.keystore", b"sqlite:///x", "k" * 43 + "="])
def test_sql_store_refuses_what_is_no_address(url: Any, key: bytes) -> None:
    """Without repeating it: it may be a key."""
    with pytest.raises(ConfigurationError, match="the address") as caught:
        EncryptedSQLStore(url, key=key)
    assert "kkk" not in str(caught.value)


@pytest.mark.parametrize("name", ["lock_timeout", "refresh_wait", "session_timeout"])
def test_open_sql_refuses_what_is_no_length_of_time(name: str, tmp_path: Path, key: bytes) -> None:
    """Before anything is created."""
    with pytest.raises(ConfigurationError, match=rf"^{name} is not a number of seconds"):
        open_keystore(f"sqlite:///{tmp_path}/s.db", key=key, **{name: -1})  # type: ignore[arg-type] # by name
    assert not list(tmp_path.iterdir())


@pytest.mark.needs_posix_shell
def test_error_of_an_sqlite_database_advises_no_server(tmp_path: Path, key: bytes) -> None:
    """There is none: a file that is none of a database, one that is locked, one that is damaged."""
    path, address = tmp_path / "s.db", f"sqlite:///{tmp_path}/s.db"
    path.write_bytes(b"no database" * 99)
    error, _ = failure_of(lambda: open_keystore(address, key=key), StoreUnavailableError)
    assert "file is not a database" in error.problem
    assert error.advice.endswith(f"restored from a backup: zoho-keystore --store {address} restore BACKUP")
    path.unlink()
    with closing(open_keystore(address, key=key, lock_timeout=0.05)) as keystore:
        keystore.save(TOKEN)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked, _ = failure_of(lambda: keystore.save(replace(TOKEN, user_name="bob")), LockTimeoutError)
            other.execute("ROLLBACK")
            other.execute("ALTER TABLE zoho_keystore_token RENAME COLUMN sealed TO lost")
        broken, _ = failure_of(keystore.records, StoreUnavailableError)
    assert locked.advice == "Try again; if a program hangs, end it"
    assert broken.advice == f"Check the database: zoho-keystore --store {address} doctor"


# --- Passwords of databases ---

PASSWORD = "hunter2-swordfish"
#: Nothing listens there.
SERVER = "postgresql://ann@127.0.0.1:1/d"


@pytest.mark.parametrize("opening", [open_keystore, EncryptedSQLStore])
@pytest.mark.parametrize(
    ("url", "options"),
    [
        (SERVER, {"lock_timeout": 0}),
        (SERVER, {"lock_timeout": -1}),
        (SERVER, {"refresh_wait": -1}),
        (SERVER, {"prefix": "B-d"}),
        (SERVER, {"key": "env:NONE"}),
        (SERVER, {"connect_args": f"password={PASSWORD}"}),
        ("postgresql+pg8000://ann@127.0.0.1:1/d", {}),
        (f"postgresql://ann:{PASSWORD}@127.0.0.1:1/d", {}),
        (f"postgresql://ann:a@{PASSWORD}@127.0.0.1:1/d", {}),
        (f"postgresql://127.0.0.1/d?password={PASSWORD}", {}),
        (f"mongodb://ann:{PASSWORD}@127.0.0.1/d", {}),
    ],
)
def test_open_that_fails_shows_no_password_of_a_database(
    opening: Callable[..., object], url: str, options: dict[str, Any], key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the error nor in a variable of a frame of the package, where tools for errors would print it."""
    monkeypatch.setitem(sys.modules, "pg8000", None)
    given = {"key": key, "connect_args": {"password": PASSWORD}, **options}
    caught, shown = failure_of(lambda: opening(url, **given), KeystoreError)
    package = os.path.dirname(zoho_keystore.__file__)
    frames = [frame for frame, _ in traceback.walk_tb(caught.__traceback__)]
    of_package = (frame.f_locals for frame in frames if frame.f_code.co_filename.startswith(package))
    # A store that is half made has no repr.
    variables = [{name: value for name, value in found.items() if name != "self"} for found in of_package]
    assert variables
    assert_hides(f"{shown}{variables!r}", PASSWORD.encode())
    assert caught.__cause__ is None
