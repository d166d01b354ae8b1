"""The SDK's token stores on a keystore. The only module that imports the SDK."""

from __future__ import annotations

import functools
import logging
from contextlib import contextmanager
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, Self

from zoho_keystore._hidden import Hidden
from zoho_keystore._open import open_file_keystore, open_memory_keystore, open_sql_keystore, required_address
from zoho_keystore._records import FIELDS, TokenRecord, field_values, record_of
from zoho_keystore.errors import InvalidTokenError, KeystoreError, SDKNotInstalledError

try:
    from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
    from zohocrmsdk.src.com.zoho.api.authenticator.store.token_store import TokenStore
    from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException
    from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature
except ImportError as error:
    raise SDKNotInstalledError(
        f"the Zoho CRM SDK cannot be imported: {error.msg}",
        'Install it with this package: pip install "zoho_keystore[crm8]" (or crm7, crm6, crm5, for its older versions)',
    ) from error

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from zoho_keystore._keystore import Keystore

_log = logging.getLogger(__name__)

_SETTERS = tuple("set_user_signature" if name == "user_name" else f"set_{name}" for name in FIELDS)
_TEXT_TYPES = frozenset((str, type(None)))


class _KeystoreTokenStore(TokenStore):
    """A token store of the SDK on a keystore.

    Its six methods raise ``SDKException`` with the code ``TOKEN_STORE`` and a :class:`KeystoreError` as its ``cause``,
    since that is what callers of the SDK catch.
    """

    def __init__(self, keystore: Keystore) -> None:
        self._keystore = keystore
        self._path = keystore.path

    def find_token(self, token: OAuthToken) -> OAuthToken | None:
        """Fill a token with what is stored of it; may wait while another process refreshes the same token.

        Args:
            token: What is known of it. It means the record of its id; else, also when no record has its id, of its
                user's name (and client, if it has one); else, without a client, of its access token; else of its client
                and grant or refresh token.

        Returns:
            The same token, with what it lacked, and with the stored access token where that expires later; or None when
            it means no stored record.

        Raises:
            SDKException: It is not a token, or the store cannot be read; or it has nothing but an id that no stored
                token has; or it has a grant token that is not exchanged yet, and the store cannot be written: the
                exchange can be made only once.
        """
        # Not with _as_sdk_exception: this runs before the SDK's requests, and a context manager takes 1 µs.
        try:
            wanted = _record_of(token, self._path)
            found = self._keystore.find_for_use(wanted)
        except KeystoreError as error:
            raise _sdk_exception("looking up a token", error) from error
        if found is None:
            return None
        _fill(token, wanted, found)
        return token

    def save_token(self, token: OAuthToken) -> None:
        """Save a token durably, and set on it what it lacked, its id included.

        Args:
            token: With an id it is saved under that id; without, it updates the record that it means, or gets a new id.

        Raises:
            SDKException: It is not a token, or has no access, refresh or grant token, or it was not saved. If its
                cause is a :class:`~zoho_keystore.errors.DurabilityUnknownError`, it was saved, and may not survive a
                power cut.
        """
        try:
            given = _record_of(token, self._path)
            self._keystore.save(given, on_saved=lambda record: _fill(token, given, record))
        except KeystoreError as error:
            # From 6_0 on the SDK swallows this exception, and the script would go on until its token is lost.
            _log.error("%s", error)
            raise _sdk_exception("saving a token", error) from error

    def delete_token(self, id: str) -> None:
        """Delete a token.

        Raises:
            SDKException: No token has this id, or the store cannot be written.
        """
        with _as_sdk_exception("deleting a token"):
            self._keystore.delete(_require_id(id, self._path))

    def get_tokens(self) -> list[OAuthToken]:
        """Return all tokens, in the order in which they were first saved; each can be used with ``switch_user``.

        Raises:
            SDKException: The store cannot be read.
        """
        with _as_sdk_exception("listing the tokens"):
            return [_token_of(record) for record in self._keystore.records()]

    def delete_tokens(self) -> None:
        """Delete all tokens. Their ids are not assigned again.

        Raises:
            SDKException: The store cannot be written.
        """
        with _as_sdk_exception("deleting all tokens"):
            self._keystore.clear()

    def find_token_by_id(self, id: str) -> OAuthToken | None:
        """Return the token of an id; may wait while another process refreshes it.

        Returns:
            None, and a warning in the log, when no token has the id. The SDK 8_0 then signs in with the token that the
            program gave it, and saves that under the id.

        Raises:
            SDKException: The store cannot be read; or, with the SDKs before 8_0, no token has the id.
        """
        try:
            record = self._keystore.get_for_use(_require_id(id, self._path))
            if record is None and _fails_without_record():
                record = self._keystore.require(id)
        except KeystoreError as error:
            raise _sdk_exception("looking up a token by its id", error) from error
        return _token_of(record) if record is not None else None

    def close(self) -> None:
        """Drop the keys and all tokens from memory. The store cannot be used afterwards."""
        self._keystore.close()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def __repr__(self) -> str:
        """Name the store; a tool that prints the frames of a failed constructor has one without a name."""
        keystore = getattr(self, "_keystore", None)
        return f"{type(self).__name__}({'' if keystore is None else repr(keystore.name)})"

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would carry keys or tokens."""
        msg = f"{type(self).__name__} cannot be pickled or copied; a process that is no fork needs one of its own"
        raise TypeError(msg)


class EncryptedFileStore(_KeystoreTokenStore):
    """Keep the SDK's tokens in one encrypted file, safe for many threads and processes.

    The constructor reads and checks the file, or creates it, encrypted and without tokens, when it is missing; so a
    wrong key or a damaged file shows here, and not at the first refresh.

    Args:
        path: The file. None is the one that ``ZOHO_KEYSTORE_FILE`` names, else ``tokens.keystore`` in the user's data
            directory. The directory of a file that is named has to be there.
        key: A Fernet key as bytes; or where keys come from, as text: ``env:NAME``, ``file:PATH``,
            ``keyring:SERVICE/USER`` or ``command:ARGV``; or None for the first that is there of ``ZOHO_KEYSTORE_KEY``
            (one or more keys, comma-separated, newest first), ``ZOHO_KEYSTORE_KEYRING`` (the path of a key ring file)
            and the key ring in the user's config directory.
        lock_timeout: For how many seconds a write waits for the store's lock.
        refresh_wait: For how many seconds a look-up of an expired token waits for another process, thread or greenlet
            that refreshes it, so that one refresh serves all; 0 switches this off. If that one has not saved a token
            after 5 s, or after half of a shorter wait, one of the others takes over; and for a minute after a refresh
            that failed, look-ups do not wait.
        session_timeout: For how many seconds from its sign-in on a token is handed out; then all look-ups and
            ``get_tokens`` take it for absent, so that the user has to sign in again, with a new grant or refresh token.
            Saving the same refresh token again is no sign-in. None is for ever.

    Raises:
        KeystoreError: One of its kinds, for whatever failed; nothing was changed then.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        key: bytes | str | None = None,
        lock_timeout: float = 10.0,
        refresh_wait: float = 10.0,
        session_timeout: float | None = None,
    ) -> None:
        hidden_path, hidden_key = Hidden(path), Hidden(key)
        del path, key  # See zoho_keystore._hidden.
        super().__init__(
            open_file_keystore(
                hidden_path,
                key=hidden_key,
                lock_timeout=lock_timeout,
                refresh_wait=refresh_wait,
                session_timeout=session_timeout,
            )
        )

    @property
    def path(self) -> Path | None:
        """The file, absolute and without symbolic links."""
        return self._path


class EncryptedSQLStore(_KeystoreTokenStore):
    """Keep the SDK's tokens in a database, each row encrypted, safe for many processes on many machines.

    The same behaviour as :class:`EncryptedFileStore`, on PostgreSQL, MySQL, MariaDB, their clusters, and SQLite. No
    token and no key can be read from the database. It learns the number of tokens, their sizes and times, and which of
    them share a value; and it can delete tokens, or put old ones back, unnoticed.

    A save that returned is kept across a crash if the server syncs its commits, and across the loss of the server only
    with synchronous replication.

    The constructor connects, and makes the tables when they are missing. A call that meets a server that has gone away
    tries again, on new connections, for up to ``lock_timeout`` seconds. After a fork, the child uses connections of its
    own.

    Args:
        url: The address: ``postgresql://USER@HOST:5432/DATABASE``, ``mysql://USER@HOST:3306/DATABASE`` or
            ``sqlite:///PATH``. A password in it is refused: it comes from ``ZOHO_KEYSTORE_SQL_PASSWORD``, from
            ``~/.pgpass``, from an option file (``?read_default_file=~/.my.cnf``) or from ``connect_args``. Another
            driver of SQLAlchemy can be named: ``mysql+mysqlconnector://…``.
        key: As for :class:`EncryptedFileStore`.
        lock_timeout: For how many seconds a call waits for other clients, or for a server that has gone away.
        refresh_wait: As for :class:`EncryptedFileStore`, for all machines.
        session_timeout: As for :class:`EncryptedFileStore`.
        prefix: The names of the two tables start with it: up to 40 small letters, digits and underscores. None is the
            ``?prefix=…`` of the address, else ``zoho_keystore``.
        connect_args: Arguments for the driver's ``connect()``, such as ``{"sslmode": "verify-full"}``.

    Raises:
        ConfigurationError: An argument is invalid, or SQLAlchemy or the driver is not installed.
        StoreUnavailableError: The database cannot be reached or used.
        KeystoreError: Another of its kinds, for whatever failed; nothing was changed then.
    """

    def __init__(
        self,
        url: str,
        *,
        key: bytes | str | None = None,
        lock_timeout: float = 30.0,
        refresh_wait: float = 10.0,
        session_timeout: float | None = None,
        prefix: str | None = None,
        connect_args: Mapping[str, Any] | None = None,
    ) -> None:
        hidden_url, hidden_key, hidden_args = Hidden(url), Hidden(key), Hidden(connect_args)
        del url, key, connect_args  # See zoho_keystore._hidden.
        super().__init__(
            open_sql_keystore(
                required_address(hidden_url),
                key=hidden_key,
                lock_timeout=lock_timeout,
                refresh_wait=refresh_wait,
                session_timeout=session_timeout,
                prefix=prefix,
                connect_args=hidden_args,
            )
        )

    @property
    def address(self) -> str:
        """The address of the database, without a password."""
        return self._keystore.name


class InMemoryStore(_KeystoreTokenStore):
    """Keep the SDK's tokens in memory: the same behaviour as :class:`EncryptedFileStore`, and nothing on disk.

    For tests, and for containers without a disk to write to. The tokens are gone with the process; a forked process
    goes on with a copy of its own.

    Args:
        refresh_wait: As for :class:`EncryptedFileStore`, between threads.
    """

    def __init__(self, *, refresh_wait: float = 10.0) -> None:
        super().__init__(open_memory_keystore(refresh_wait=refresh_wait))

    def __repr__(self) -> str:
        """Name the class."""
        return f"{type(self).__name__}()"


@contextmanager
def _as_sdk_exception(doing: str) -> Iterator[None]:
    try:
        yield
    except KeystoreError as error:
        raise _sdk_exception(doing, error) from error


@functools.cache
def _fails_without_record() -> bool:
    """Return whether the SDK fails when ``find_token_by_id`` returns None: 5_0 to 7_0 merge the None into their token.

    Its ``get_token`` is run on a store without tokens, and with the rest of the SDK left out. No name or version tells
    it as surely: several packages bring the SDK, and programs are frozen without their names.
    """
    empty = SimpleNamespace(store=SimpleNamespace(find_token_by_id=lambda _id: None), environment=None)
    try:
        get_token = OAuthToken.get_token
        names = {**get_token.__globals__, "Initializer": SimpleNamespace(get_initializer=lambda: empty)}
        FunctionType(get_token.__code__, names)(OAuthToken(id="1"))
    except SDKException as error:
        return bool(error.code == "MERGE_OBJECT")
    except Exception:  # noqa: BLE001 - an SDK of another build: it gets the None that its interface allows
        return False
    return False


def _sdk_exception(doing: str, error: KeystoreError) -> SDKException:
    return SDKException(code="TOKEN_STORE", message=f"{doing} failed: ", cause=error)


def _record_of(token: Any, path: Path | None) -> TokenRecord:
    """Return what an SDK token holds.

    Raises:
        InvalidTokenError: It is not a token, or holds what cannot be saved.
    """
    if not isinstance(token, OAuthToken):
        raise InvalidTokenError(
            f"the argument is of type {type(token).__name__}, and not a token", "Pass an OAuthToken of the SDK", path
        )
    fields = _fields_of(token)
    if fields is None:
        raise InvalidTokenError("the token was not made by its constructor", "Make it with OAuthToken(...)", path)
    # One set operation, since this runs before each request; only an odd value is looked at more closely.
    if not _TEXT_TYPES.issuperset(map(type, fields.values())):
        if type(fields["expires_in"]) is int:
            fields["expires_in"] = str(fields["expires_in"])
        wrong = next((name for name, value in fields.items() if not isinstance(value, str | None)), None)
        if wrong is not None:
            kind = type(fields[wrong]).__name__
            del fields  # Secrets must not be in a frame of the traceback (see zoho_keystore.errors).
            raise InvalidTokenError(f"the token's {wrong} is of type {kind}, not a text", "Set it to a text", path)
    return record_of(fields)


def _fields_of(token: OAuthToken) -> dict[str, Any] | None:
    # An AttributeError holds the token, so it ends here.
    try:
        id, signature = token.get_id(), token.get_user_signature()
        if isinstance(signature, UserSignature):
            # An empty name matches no record; without a signature, the token does not ask for a user.
            signature = signature.get_name() or ""
        return {
            "id": "" if id is None else id,
            "user_name": signature,
            "client_id": token.get_client_id(),
            "client_secret": token.get_client_secret(),
            "refresh_token": token.get_refresh_token(),
            "access_token": token.get_access_token(),
            "grant_token": token.get_grant_token(),
            "expires_in": token.get_expires_in(),
            "redirect_url": token.get_redirect_url(),
            "api_domain": token.get_api_domain(),
        }
    except AttributeError:
        return None


def _require_id(id: Any, path: Path | None) -> str:
    if not isinstance(id, str):
        raise InvalidTokenError(
            f"the id is of type {type(id).__name__}, and not a text", 'Pass a text, such as "1"', path
        )
    return id


def _fill(token: OAuthToken, before: TokenRecord, after: TokenRecord) -> None:
    """Set on a token what differs between what it held and what it is to hold."""
    for setter, was, now in zip(_SETTERS, field_values(before), field_values(after), strict=True):
        if now is not was and now != was and (now or was):
            if setter == "set_user_signature":
                token.set_user_signature(UserSignature(now))
            else:
                getattr(token, setter)(now)
    if type(token.get_expires_in()) is int:
        # The SDK asks for its len() before its next request.
        token.set_expires_in(after.expires_in)


def _token_of(record: TokenRecord) -> OAuthToken:
    # By the constructor: a token from object.__new__ lacks find_user, which the SDK needs for its next refresh.
    token = OAuthToken(
        client_id=record.client_id,
        client_secret=record.client_secret,
        grant_token=record.grant_token,
        refresh_token=record.refresh_token,
        redirect_url=record.redirect_url,
        id=record.id,
        access_token=record.access_token,
        user_signature=UserSignature(record.user_name) if record.user_name else None,
        api_domain=record.api_domain,
    )
    token.set_expires_in(record.expires_in)
    return token
