"""The SDK's token stores on a keystore. The only module that imports the SDK."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Self

from zoho_keystore._keystore import Keystore, open_file, open_memory
from zoho_keystore._records import CREDENTIAL_FIELDS, TokenRecord
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
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_log = logging.getLogger(__name__)

_FIELDS = ("id", *CREDENTIAL_FIELDS)
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
        """Fill a token with what is stored of it.

        Args:
            token: What is known of it. It means the record of its id; else of its user's name (and client, if it has
                one); else, without a client, of its access token; else of its client and grant or refresh token.

        Returns:
            The same token, with what it lacked, and with the stored access token where that expires later; or None when
            nothing that is stored is meant.

        Raises:
            SDKException: It is no token, or the store cannot be read.
        """
        # A context manager would take as long as all the rest of this that is not the look at the file.
        try:
            wanted = _record_of(token, self._path)
            found = self._keystore.find(wanted)
        except KeystoreError as error:
            raise _sdk_exception("looking up a token", error) from error
        if found is None:
            return None
        if found is not wanted or type(token.get_expires_in()) is int:
            _fill(token, wanted, found)
        return token

    def save_token(self, token: OAuthToken) -> None:
        """Keep a token, durably, and set on it what it lacked, its id included.

        Args:
            token: With an id it is kept under that id; without, it replaces the record that it means, or gets a new id.

        Raises:
            SDKException: It is no token or has nothing to keep, or it was not saved. With a
                :class:`DurabilityUnknownError` as its cause it was saved, and may not survive a power cut.
        """
        try:
            given = _record_of(token, self._path)
            self._keystore.save(given, saved=lambda record: _fill(token, given, record))
        except KeystoreError as error:
            # The SDK keeps this to itself from 6_0 on, and the script would go on until its token is lost.
            _log.error("%s", error)
            raise _sdk_exception("saving a token", error) from error

    def delete_token(self, id: str) -> None:
        """Remove a token.

        Raises:
            SDKException: There is none with this id, or the store cannot be written.
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
        """Remove all tokens. Their ids are not given again.

        Raises:
            SDKException: The store cannot be written.
        """
        with _as_sdk_exception("deleting all tokens"):
            self._keystore.clear()

    def find_token_by_id(self, id: str) -> OAuthToken | None:
        """Return the token of an id; None, and a warning in the log, when there is none.

        Raises:
            SDKException: The store cannot be read.
        """
        try:
            record = self._keystore.get(_require_id(id, self._path))
        except KeystoreError as error:
            raise _sdk_exception("looking up a token by its id", error) from error
        return _token_of(record) if record is not None else None

    def close(self) -> None:
        """Forget the keys and all tokens in memory. The store cannot be used afterwards."""
        self._keystore.close()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would carry keys or tokens."""
        msg = f"{type(self).__name__} cannot be pickled or copied; a process that is no fork needs one of its own"
        raise TypeError(msg)


class EncryptedFileStore(_KeystoreTokenStore):
    """The SDK's tokens in one encrypted file, safe for many threads and processes.

    The file is read and checked at once, or made, empty and sealed, when it is not there; a wrong key or a damaged file
    shows here and not at the first refresh.

    Args:
        path: The file. None is the one that ``ZOHO_KEYSTORE_FILE`` names, else ``tokens.keystore`` in the user's data
            folder. The folder of a file that is named has to be there.
        key: A Fernet key as bytes; or where keys come from, as text: ``env:NAME`` or ``file:PATH``; or None for the
            first that is there of ``ZOHO_KEYSTORE_KEY`` (one or more keys, comma-separated, newest first),
            ``ZOHO_KEYSTORE_KEYRING`` (the path of a key ring file) and the key ring in the user's config folder.
        lock_timeout: For how many seconds a write waits for another one to end.
        refresh_wait: For how many seconds a token that has expired waits for another process or thread that refreshes
            it, so that one refresh serves all; 0 switches this off.

    Raises:
        KeystoreError: One of its kinds, for whatever stands in the way; nothing was changed then.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        key: bytes | str | None = None,
        lock_timeout: float = 10.0,
        refresh_wait: float = 10.0,
    ) -> None:
        super().__init__(open_file(path, key=key, lock_timeout=lock_timeout, refresh_wait=refresh_wait))

    @property
    def path(self) -> Path | None:
        """The file, absolute and without symbolic links."""
        return self._path

    def __repr__(self) -> str:
        """Name the file."""
        return f"{type(self).__name__}({str(self.path)!r})"


class InMemoryStore(_KeystoreTokenStore):
    """The SDK's tokens in memory: the same behaviour as :class:`EncryptedFileStore`, and nothing on disk.

    For tests, and for containers without a place to write to. The tokens are gone with the process; a forked process
    goes on with a copy of its own.

    Args:
        refresh_wait: As for :class:`EncryptedFileStore`, between threads.
    """

    def __init__(self, *, refresh_wait: float = 10.0) -> None:
        super().__init__(open_memory(refresh_wait=refresh_wait))

    def __repr__(self) -> str:
        """Name the class."""
        return f"{type(self).__name__}()"


@contextmanager
def _as_sdk_exception(doing: str) -> Iterator[None]:
    try:
        yield
    except KeystoreError as error:
        raise _sdk_exception(doing, error) from error


def _sdk_exception(doing: str, error: KeystoreError) -> SDKException:
    return SDKException(code="TOKEN_STORE", message=f"{doing} failed: ", cause=error)


def _record_of(token: Any, path: Path | None) -> TokenRecord:
    """Return what an SDK token holds, without the fields that are None or empty.

    Raises:
        InvalidTokenError: It is no token, or holds what cannot be kept.
    """
    if not isinstance(token, OAuthToken):
        raise InvalidTokenError(
            f"the argument is of type {type(token).__name__}, and no token", "Pass an OAuthToken of the SDK", path
        )
    fields = _fields_of(token)
    if fields is None:
        raise InvalidTokenError("the token was not made by its constructor", "Make it with OAuthToken(...)", path)
    # All at once, since this runs before each request; what is not exactly a text or None is looked at more closely.
    if not _TEXT_TYPES.issuperset(map(type, fields.values())):
        if type(fields["expires_in"]) is int:
            fields["expires_in"] = str(fields["expires_in"])
        wrong = next((name for name, value in fields.items() if not isinstance(value, str | None)), None)
        if wrong is not None:
            kind = type(fields[wrong]).__name__
            # Whoever prints the variables of a traceback is not to find the token's fields among them.
            del fields
            raise InvalidTokenError(f"the token's {wrong} is of type {kind}, and no text", "Set it to a text", path)
    return TokenRecord.adopt(fields)


def _fields_of(token: OAuthToken) -> dict[str, Any] | None:
    # An AttributeError carries the token with it, so it ends here.
    try:
        id, signature = token.get_id(), token.get_user_signature()
        if isinstance(signature, UserSignature):
            # An empty name is a name that nobody has; without a signature, the token does not ask for a user.
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
        raise InvalidTokenError(f"the id is of type {type(id).__name__}, and no text", 'Pass a text, such as "1"', path)
    return id


def _fill(token: OAuthToken, before: TokenRecord, after: TokenRecord) -> None:
    """Set on a token what differs between what it held and what it is to hold."""
    was, now = before.__dict__, after.__dict__
    for field in _FIELDS:
        value = now.get(field)
        if value is not was[field] and value != was[field] and (value or was[field]):
            if field == "user_name":
                token.set_user_signature(UserSignature(value))
            else:
                getattr(token, f"set_{field}")(value)
    if type(token.get_expires_in()) is int:
        # The SDK asks for its len() before its next request.
        token.set_expires_in(after.expires_in)


def _token_of(record: TokenRecord) -> OAuthToken:
    # By the constructor: a token made in another way lacks what the SDK needs for its next refresh.
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
