"""The stores that are compared: ours, the SDK's FileStore, and peers. All hold the same tokens, as long as Zoho's."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sqlite3
import time
import uuid
from abc import ABC, abstractmethod
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from zoho_keystore import EncryptedFileStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OURS, FILE_STORE, SQLITE = "EncryptedFileStore", "FileStore", "sqlite3"
MSAL, LIMIT = "msal-extensions", "limit"

#: More tokens than this are given to ours and sqlite3 only: the other stores would take minutes.
MAX_FOR_OTHERS = 10_000

#: After so many seconds without a change, an equal stat signature is enough to know that a file is the same.
REST_S = 2.1

#: Far away: a find of a token that needs a refresh would take a lease.
_EXPIRES_IN = str(time.time_ns() // 1_000_000 + 30 * 24 * 3_600_000)


def secret(kind: str, number: int) -> str:
    """Return a made-up token in Zoho's form."""
    digits = hashlib.sha256(f"{kind} {number}".encode()).hexdigest()
    return f"1000.{digits[:32]}.{digits[32:]}"


def fields(number: int) -> dict[str, str]:
    """Return the fields of a token of one OAuth client and many users."""
    return {
        "id": str(number),
        "user_name": f"user{number}@example.com:{700_000_000 + number}",
        "client_id": "1000.8Q3P5V0ZL7XJ2K9M4N6B1C8D5F7G2H",
        "client_secret": "5f2b8c1d9e3a7046b1c8d2e5f9a3b7c0d4e8f1a2b6",
        "refresh_token": secret("refresh", number),
        "access_token": secret("access", number),
        "grant_token": secret("grant", number),
        "expires_in": _EXPIRES_IN,
        "redirect_url": "https://example.com/oauth/callback",
        "api_domain": "https://www.zohoapis.com",
    }


def new_token(number: int) -> Any:
    """Return a token as a script makes it: with its client and its refresh token."""
    given = fields(number)
    return OAuthToken(**{name: given[name] for name in ("client_id", "client_secret", "refresh_token")})


def filled_token(number: int) -> Any:
    """Return a token as it is after a find."""
    given = fields(number)
    name, expires_in = given.pop("user_name"), given.pop("expires_in")
    made = OAuthToken(**given, user_signature=UserSignature(name))
    made.set_expires_in(expires_in)
    return made


def document(tokens: int) -> bytes:
    """Return the payload of a keystore of so many tokens."""
    now_ms = time.time_ns() // 1_000_000
    records = [{**fields(number), "created_at": now_ms, "saved_at": now_ms + number} for number in range(1, tokens + 1)]
    header = {"format": "zoho-keystore", "version": 1, "store_id": str(uuid.uuid4()), "generation": 1}
    return json.dumps({**header, "next_id": tokens + 1, "tokens": records}, separators=(",", ":")).encode()


class Store(ABC):
    """A store of many tokens, which are numbered from 1.

    Attributes:
        name: Its name in the tables.
        path: Its file.
    """

    name: str
    path: Path

    @abstractmethod
    def finder_by_id(self, number: int) -> Callable[[], object]:
        """Return a call that looks for a token by its id."""

    @abstractmethod
    def saver(self, number: int, access_token: str) -> Callable[[], object]:
        """Return a call that saves a token with a new access token."""

    def close(self) -> None:  # noqa: B027 - some have nothing to close
        pass


class SDKStore(Store):
    """A store with the SDK's interface."""

    def __init__(self, name: str, path: Path, store: Any) -> None:
        self.name = name
        self.path = path
        self.store = store

    def finder_by_id(self, number: int) -> Callable[[], object]:
        return partial(self.store.find_token_by_id, str(number))

    def finder(self, token: Any) -> Callable[[], object]:
        return partial(self.store.find_token, token)

    def saver(self, number: int, access_token: str) -> Callable[[], object]:
        """Return a call that saves a token as the SDK does after a refresh."""
        refreshed = filled_token(number)
        refreshed.set_access_token(access_token)
        return partial(self.store.save_token, refreshed)

    def close(self) -> None:
        if isinstance(self.store, EncryptedFileStore):
            self.store.close()


def ours(directory: Path, tokens: int, key: bytes, *, at_rest: bool = False) -> SDKStore:
    """Return the store of this package.

    Args:
        directory: Where its file is made.
        tokens: How many tokens it holds.
        key: Its key.
        at_rest: Wait, before it is opened, until its file has been unchanged for 2 s.
    """
    path = directory / "tokens.keystore"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(Fernet(key).encrypt(document(tokens)))
    if at_rest:
        time.sleep(REST_S)
    return SDKStore(OURS, path, EncryptedFileStore(path, key=key))


def file_store(directory: Path, tokens: int) -> SDKStore:
    """Return the SDK's own store in a plain-text file."""
    path = directory / "tokens.csv"
    store = FileStore(str(path))  # It writes the header.
    with open(path, "a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(fields(number).values() for number in range(1, tokens + 1))
    return SDKStore(FILE_STORE, path, store)


class _Rows(Store):
    """A store of fields by id; it builds no token of the SDK."""

    @abstractmethod
    def find(self, number: int) -> object: ...

    @abstractmethod
    def save(self, given: dict[str, str]) -> None: ...

    def finder_by_id(self, number: int) -> Callable[[], object]:
        return partial(self.find, number)

    def saver(self, number: int, access_token: str) -> Callable[[], object]:
        return partial(self.save, {**fields(number), "access_token": access_token})


class Sqlite(_Rows):
    """FileStore's rows in a database that syncs each save."""

    name = SQLITE

    def __init__(self, directory: Path, tokens: int) -> None:
        self.path = directory / "tokens.sqlite3"
        self._database = sqlite3.connect(self.path, isolation_level=None)
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(f"CREATE TABLE tokens (id TEXT PRIMARY KEY, {', '.join(list(fields(1))[1:])})")
        self._database.execute("BEGIN")
        for number in range(1, tokens + 1):
            self.save(fields(number))
        self._database.execute("COMMIT")

    def find(self, number: int) -> object:
        return self._database.execute("SELECT * FROM tokens WHERE id = ?", (str(number),)).fetchone()

    def save(self, given: dict[str, str]) -> None:
        self._database.execute("REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(given.values()))

    def close(self) -> None:
        self._database.close()


class Msal(_Rows):
    """The token cache of Microsoft's library: a plain-text file under a lock, read again when it is newer."""

    name = MSAL

    def __init__(self, directory: Path, tokens: int) -> None:
        import msal  # noqa: PLC0415 - may be missing
        import msal_extensions  # noqa: PLC0415 - may be missing

        self.path = directory / "tokens.msal.json"
        self._kind = msal.TokenCache.CredentialType.REFRESH_TOKEN
        everything = msal.SerializableTokenCache()
        for number in range(1, tokens + 1):
            everything.modify(self._kind, self._key(number), fields(number))
        persistence = msal_extensions.FilePersistence(str(self.path))
        persistence.save(everything.serialize())
        self._cache = msal_extensions.PersistedTokenCache(persistence)

    @staticmethod
    def _key(number: int) -> dict[str, str]:
        return {"home_account_id": str(number), "environment": "zoho", "client_id": fields(number)["client_id"]}

    def find(self, number: int) -> object:
        return next(iter(self._cache.search(self._kind, query={"home_account_id": str(number)})))

    def save(self, given: dict[str, str]) -> None:
        self._cache.modify(self._kind, self._key(int(given["id"])), given)


PEERS: dict[str, Callable[[Path, int], Store]] = {FILE_STORE: file_store, SQLITE: Sqlite, MSAL: Msal}


def missing_peers() -> list[str]:
    """Return the names of the peers that are not installed."""
    return [] if find_spec("msal_extensions") else [MSAL]
