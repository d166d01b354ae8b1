"""The public names with their types: mypy checks this file, and pytest does not run it.

If mypy reports an error here, the API has changed: that needs an entry in the changelog and, if callers have to
change, a new major version.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_type

import zoho_keystore
from zoho_keystore import (
    CannotOpenError,
    ConfigurationError,
    Diagnostic,
    DocumentError,
    DurabilityUnknownError,
    EncryptedFileStore,
    EncryptedSQLStore,
    ImportSourceError,
    InMemoryStore,
    InvalidTokenError,
    Keystore,
    KeystoreError,
    KeyUnavailableError,
    LockTimeoutError,
    MalformedKeyError,
    NewerVersionError,
    Rotation,
    RotationUnfinishedError,
    SDKNotInstalledError,
    StoreClosedError,
    StoreFileError,
    TokenError,
    TokenNotFoundError,
    TokenRecord,
    UnsafeFileError,
    backup,
    diagnose,
    errors,
    open_keystore,
    restore,
    rotate,
)

assert_type(zoho_keystore.__version__, str)

path = Path("tokens.keystore")


def sdk_stores(token: Any) -> None:
    with EncryptedFileStore(path, key=b"key", lock_timeout=10.0, refresh_wait=10.0) as store:
        assert_type(store, EncryptedFileStore)
        assert_type(store.path, Path | None)
        store.find_token(token)
        store.find_token_by_id("1")
        store.get_tokens()
        store.save_token(token)
        store.delete_token("1")
        store.delete_tokens()
    EncryptedFileStore()
    EncryptedFileStore("tokens.keystore", key="env:NAME").close()
    with EncryptedSQLStore(
        "postgresql://keystore@localhost/keystore",
        key=b"key",
        lock_timeout=30.0,
        refresh_wait=10.0,
        session_timeout=None,
        prefix="zoho_keystore",
        connect_args={"sslmode": "verify-full"},
    ) as sql_store:
        assert_type(sql_store, EncryptedSQLStore)
        assert_type(sql_store.address, str)

    with InMemoryStore(refresh_wait=0) as memory:
        assert_type(memory, InMemoryStore)


def keystore() -> None:
    opened = open_keystore()
    assert_type(opened, Keystore)
    open_keystore(path, key=b"key", lock_timeout=1, refresh_wait=0)
    open_keystore("tokens.keystore", key="file:keyring", create=False)
    assert_type(opened.path, Path | None)
    assert_type(opened.get("1"), TokenRecord | None)
    assert_type(opened.get_for_use("1"), TokenRecord | None)
    assert_type(opened.find(TokenRecord(user_name="ann@example.com:77")), TokenRecord | None)
    assert_type(opened.find_for_use(TokenRecord(access_token="…")), TokenRecord | None)
    assert_type(opened.records(), Sequence[TokenRecord])
    assert_type(opened.save(TokenRecord(refresh_token="…"), on_saved=lambda record: print(record.id)), TokenRecord)
    opened.delete("1", "2")
    opened.clear()
    [imported] = opened.import_records([TokenRecord(id="1", access_token="…")], dry_run=True, progress=lambda: None)
    assert_type(imported.record, TokenRecord)
    opened.close()


def record(one: TokenRecord) -> None:
    assert_type(one.id, str)
    assert_type(one.user_name, str | None)
    assert_type(one.client_id, str | None)
    assert_type(one.client_secret, str | None)
    assert_type(one.refresh_token, str | None)
    assert_type(one.access_token, str | None)
    assert_type(one.grant_token, str | None)
    assert_type(one.expires_in, str | None)
    assert_type(one.redirect_url, str | None)
    assert_type(one.api_domain, str | None)
    assert_type(one.created_at, int)
    assert_type(one.saved_at, int)
    assert_type(one.expires_at_ms, int | None)
    one.id = "2"  # type: ignore[misc] # A record is frozen.


def operations() -> None:
    rotation = rotate(path, key="file:keyring", new="env:NEW", drop_old=True, lock_timeout=10.0)
    assert_type(rotation, Rotation)
    assert_type(rotation.path, Path | str)
    assert_type(rotation.source, str)
    assert_type(rotation.fingerprint, str)
    assert_type(rotation.retired, tuple[str, ...])
    assert_type(rotation.dropped, tuple[str, ...])
    assert_type(rotation.lost, tuple[Path | str, ...])
    assert_type(rotation.manual_distribution, bool)
    assert_type(rotation.report(), str)
    rotate()
    assert_type(backup(path, "copies", key="file:keyring"), Path)
    assert_type(restore(path, "copies/tokens.keystore", key="file:keyring", lock_timeout=10.0), Path | None)
    found = diagnose(path, key="file:keyring")
    assert_type(found, list[Diagnostic])
    assert_type(found[0].is_problem, bool)
    assert_type(found[0].what, str)
    assert_type(found[0].fix, str)


def error_tree() -> None:
    base: list[type[KeystoreError]] = [
        CannotOpenError,
        ConfigurationError,
        DocumentError,
        ImportSourceError,
        KeyUnavailableError,
        LockTimeoutError,
        RotationUnfinishedError,
        SDKNotInstalledError,
        StoreClosedError,
        StoreFileError,
        TokenError,
    ]
    document: list[type[DocumentError]] = [NewerVersionError]
    key: list[type[KeyUnavailableError]] = [MalformedKeyError]
    file: list[type[StoreFileError]] = [DurabilityUnknownError, UnsafeFileError]
    token: list[type[TokenError]] = [InvalidTokenError, TokenNotFoundError]
    builtin: tuple[type[ValueError], type[ImportError]] = (ConfigurationError, SDKNotInstalledError)
    print(base, document, key, file, token, builtin)
    try:
        open_keystore()
    except errors.KeystoreError as error:
        assert_type(error.problem, str)
        assert_type(error.advice, str)
        assert_type(error.path, Path | None)
