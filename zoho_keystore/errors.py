"""Everything that zoho_keystore raises on purpose.

The families, each of which may be caught as a whole::

    KeystoreError
    ├── SDKNotInstalledError        a store class was used, and no Zoho CRM SDK is installed (also an ImportError)
    ├── ConfigurationError          invalid argument or setting (also a ValueError)
    ├── KeyUnavailableError         no key available: not set, missing, or not readable
    │   └── MalformedKeyError       the key is not a Fernet key
    ├── CannotOpenError             the file does not decrypt: wrong key or damaged (which of them cannot be known)
    ├── DocumentError               the file decrypts, and its content is not a keystore document
    │   └── NewerVersionError       it is one, of a version that this release does not know
    ├── StoreUnavailableError       the database server cannot be reached or used; nothing was changed
    ├── StoreFileError              the file or its directory cannot be read, created or replaced
    │   ├── UnsafeFileError         its kind, owner or permissions give other users access
    │   └── DurabilityUnknownError  the new state is saved and visible, and may not survive a power cut
    ├── RotationUnfinishedError     a key rotation stopped half-way; all stays readable, and the next one finishes it
    ├── LockTimeoutError            another process or thread held the store's lock for too long
    ├── StoreClosedError            the store was used after ``close()``
    ├── ImportSourceError           the source of an import cannot be read, or is not one
    ├── SignInError                 a sign-in at Zoho failed
    │   ├── SignInNeededError       Zoho does not accept the refresh token any more
    │   └── ClientRefusedError      Zoho does not accept the OAuth client
    ├── ThrottledError              Zoho refuses access tokens for a while
    ├── ZohoUnreachableError        Zoho did not answer, or not as Zoho
    └── TokenError                  the token or id that a method got
        ├── InvalidTokenError       it is not a token, or cannot be saved
        └── TokenNotFoundError      no record has this id

No message, attribute, repr or traceback of these holds a key or a token. For tracebacks that means: tools print the
variables of each frame, and follow the chain of exceptions. So an error is raised from a frame that holds no secret,
after the frame that did has returned: the code keeps the error and raises it outside of the ``except`` block, or
deletes its references first. And an exception of a library that may carry a secret ends where it is caught. Code that
does so refers to this paragraph. ``zoho_keystore._hidden`` does it for keys and addresses.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from zoho_keystore._platform import choose
from zoho_keystore._text import with_store

if TYPE_CHECKING:
    from pathlib import Path


class KeystoreError(Exception):
    """The base of all errors of this package.

    Attributes:
        problem: What failed, without the file's name.
        advice: What to do next.
        path: The file that it failed on, or None where no file is concerned.
    """

    def __init__(self, problem: str, advice: str = "", path: Path | None = None) -> None:
        """Take what failed, what to do next, and the file concerned."""
        # All three go into args, so that the error survives pickling (multiprocessing sends errors that way).
        super().__init__(problem, advice, path)
        self.problem = problem
        self.advice = advice
        self.path = path

    def name_store(self, store: str | None, key: str | None) -> None:
        """Make the commands in the advice, such as ``zoho-keystore list``, work on the caller's store.

        Args:
            store: The store's path; None is the default.
            key: The spec of its keys; None is the default.
        """
        self.advice = with_store(self.args[1], store, key)

    def __str__(self) -> str:
        """Return one line: the file, what failed, what to do next."""
        where = f"{self.path}: " if self.path is not None else ""
        return f"{where}{self.problem}. {self.advice}".rstrip()


class ConfigurationError(KeystoreError, ValueError):
    """Invalid argument or setting."""


class SDKNotInstalledError(KeystoreError, ImportError):  # type: ignore[misc] # ImportError's path is one of a module
    """A store class was used, and no Zoho CRM SDK can be imported."""


class KeyUnavailableError(KeystoreError):
    """The source of keys has no key available.

    Attributes:
        is_missing: Whether the source is empty or does not exist, so that a new store would get a new key.
    """

    is_missing = False


class MalformedKeyError(KeyUnavailableError):
    """The source of keys holds something that is not a Fernet key."""


class CannotOpenError(KeystoreError):
    """The file does not decrypt: the key is wrong or the file is damaged, which Fernet cannot tell apart."""


class DocumentError(KeystoreError):
    """The file decrypts, and its content is not a keystore document, or a malformed one."""


class NewerVersionError(DocumentError):
    """The document has a version that this release does not know, so it is neither read nor rewritten."""


class StoreFileError(KeystoreError):
    """The store's file or directory cannot be read, made or replaced."""


class UnsafeFileError(StoreFileError):
    """A file or directory of the store has a kind, owner or mode that gives other users access."""


class DurabilityUnknownError(StoreFileError):
    """The new state is saved and visible, and it is unknown whether it would survive a power cut."""


class StoreUnavailableError(KeystoreError):
    """The database of the store cannot be reached, or cannot be used at present; nothing was changed."""


class RotationUnfinishedError(KeystoreError):
    """A key rotation stopped half-way. What the ring holds opens the store, and another rotation finishes the work."""


class LockTimeoutError(KeystoreError):
    """The store's lock could not be acquired within the lock timeout; nothing was written."""


class StoreClosedError(KeystoreError):
    """The store was used after it had been closed."""


class ImportSourceError(KeystoreError):
    """The source of an import cannot be read, or is not one; nothing was taken from it."""


class SignInError(KeystoreError):
    """A sign-in at Zoho failed; nothing was kept."""


class SignInNeededError(SignInError):
    """Zoho does not accept the refresh token any more, or there is none: the user has to sign in again."""


class ClientRefusedError(SignInError):
    """Zoho does not accept the OAuth client: its id, secret, type, redirect URI or data centre."""


class ThrottledError(KeystoreError):
    """Zoho refuses access tokens for a while.

    Attributes:
        retry_at: When to ask again, in seconds since the epoch; 0 when that is unknown.
    """

    def __init__(self, problem: str, advice: str = "", path: Path | None = None, retry_at: float = 0.0) -> None:
        super().__init__(problem, advice, path)
        self.retry_at = retry_at


class ZohoUnreachableError(KeystoreError):
    """Zoho did not answer, or the reply is not an answer of Zoho's; nothing was changed."""


class TokenError(KeystoreError):
    """The token or the id that a method got cannot be used."""


class InvalidTokenError(TokenError):
    """The argument is not a token, or cannot be saved."""


class TokenNotFoundError(TokenError):
    """No record has this id."""


def os_error_text(error: OSError) -> str:
    """Return what the operating system says, without the path that Python adds: errors name the file themselves."""
    return (error.strerror or str(error)).lower()


def key_missing(problem: str, advice: str, path: Path | None = None) -> KeyUnavailableError:
    """Return the error for a source of keys that is empty or does not exist."""
    error = KeyUnavailableError(problem, advice, path)
    error.is_missing = True
    return error


_UNSUPPORTED: Final = "This file system or sandbox lacks what the store needs: keep the store on a local disk"

_NEXT_STEPS: Final = {
    errno.ENOENT: "Check the path; the directory has to exist",
    errno.ENOTDIR: "Check the path: a part of it is a file, not a directory",
    errno.EACCES: choose(
        "Check the owner and the mode of the file and of its directory",
        "Check who may use the file and its directory (icacls), and whether another program has the file open",
    ),
    errno.EPERM: "Check the owner of the file and of its directory, and whether the file is immutable (lsattr; macOS: "
    "ls -lO)",
    errno.EROFS: "The file system is read-only: use a store elsewhere, or InMemoryStore",
    errno.EBUSY: "If the file itself is mounted (docker -v FILE:FILE), mount its directory: the file is replaced",
    errno.EISDIR: "There is a directory where a file should be: remove it, or give another path",
    errno.ENOSPC: "Free some space (and inodes) on this disk",
    errno.EDQUOT: "Free some space, or ask for a larger quota",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "The process has too many open files: close some, or raise the limit (ulimit -n)",
    errno.ENFILE: "The system has too many open files: close some, or raise the limit (fs.file-max)",
    errno.ELOOP: "There is a symbolic link where a file should be: remove it, or give the path of the file itself",
    errno.ENOMEM: "Give the process more memory",
    errno.ENAMETOOLONG: "Use a shorter file name",
    errno.ENOLCK: "The file server gives no locks: start its lock service, or keep the store on a local disk",
    errno.ENOSYS: _UNSUPPORTED,
    errno.EOPNOTSUPP: _UNSUPPORTED,
    # On macOS, these are two errors.
    errno.ENOTSUP: _UNSUPPORTED,
}


def storage_error(error: OSError, what: str, path: Path | None) -> StoreFileError:
    """Return the error for a failed system call on the store: what failed, why, and what to do next.

    Args:
        error: The error of the system call.
        what: What failed, as a clause: "the store cannot be read".
        path: The file that it failed on.
    """
    kind = UnsafeFileError if error.errno == errno.ELOOP else StoreFileError
    advice = _NEXT_STEPS.get(error.errno or 0, "Check the disk and the system's log")
    return kind(f"{what}: {os_error_text(error)}", advice, path)
