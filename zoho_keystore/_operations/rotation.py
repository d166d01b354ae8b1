"""Key rotation and other changes of a key ring.

A rotation first adds the new key to the ring, then encrypts the store with it, and removes the old keys when that is
durable. So the ring opens the store after a crash at any moment, and the next rotation completes an interrupted one.
"""

from __future__ import annotations

from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoho_keystore._keys.ring import KeyRing, fingerprint, new_key
from zoho_keystore._keys.sources import GivenKeys, WritableKeySource, key_source
from zoho_keystore._open import as_seconds, store_path
from zoho_keystore._operations.key_usage import usage_of
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._text import plural
from zoho_keystore.errors import (
    ConfigurationError,
    DurabilityUnknownError,
    KeystoreError,
    KeyUnavailableError,
    RotationUnfinishedError,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zoho_keystore._keys.sources import KeySource
    from zoho_keystore._operations.key_usage import KeyUse


@dataclass(frozen=True)
class Rotation:
    """The result of a rotation. Keys are named by their fingerprints.

    Attributes:
        path: The store.
        source: Where its keys come from, as a spec; without the arguments of a program.
        fingerprint: The key that the store is encrypted with now.
        dropped: The old keys that were removed from the ring.
        kept: The old keys that stay in the ring because other files need them, and these files.
        manual_distribution: Whether the user has to distribute the keys, because the source cannot be written.
    """

    path: Path
    source: str
    fingerprint: str
    dropped: tuple[str, ...]
    kept: tuple[KeyUse, ...]
    manual_distribution: bool

    def report(self) -> str:
        """Return what was done and what the user has to do next, as lines of text."""
        lines = [f"{self.path} is sealed with the key {self.fingerprint}."]
        if self.dropped:
            keys = plural(len(self.dropped), "key")
            lines.append(f"Removed the old {keys} {', '.join(self.dropped)} from {self.source}.")
        for name, files in self.kept:
            names = ", ".join(map(str, files))
            lines.append(f"Kept the old key {name}, since these files need it or cannot be read: {names}.")
        if self.manual_distribution:
            lines.append(f"Now hand out {self.fingerprint} alone, where you handed out {self.source}.")
        return "\n".join(lines)


def rotate(
    path: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    new: str | None = None,
    keep_old: bool = False,
    lock_timeout: float = 10.0,
) -> Rotation:
    """Encrypt a store with a new key, and remove the old keys from its ring.

    Processes that have the store open follow at their next request. If the store is not encrypted with the newest key
    of its ring, because an earlier rotation was interrupted or the user added a key, it is encrypted with that key, and
    no other is made.

    An old key stays in the ring while a file beside the store, or the user's default store, needs it. Backups elsewhere
    are not found: pass ``keep_old=True`` if there are any. Copies of the store from before the rotation, in backups
    or on the disk, can still be decrypted with the old keys.

    Args:
        path: The store, as for :func:`open_keystore`; it has to exist.
        key: Where its keys come from, as for :func:`open_keystore`, but not as bytes.
        new: Where the new key comes from, as a spec; its newest key is taken. None makes a key, or takes the newest key
            of the ring if the store is not encrypted with it. Sources that cannot be written (``env:``, ``command:``)
            need a new key that already exists.
        keep_old: Leave the old keys in the ring.
        lock_timeout: How many seconds to wait for the lock of the ring, and then for that of the store.

    Returns:
        What was done.

    Raises:
        RotationUnfinishedError: The ring or the store was changed, and the rotation is not complete; the ring opens the
            store, and the next rotation completes it.
        DurabilityUnknownError: The last change was made, but may not survive a power cut; the next rotation completes
            it.
        ConfigurationError: An argument or setting is invalid, or the source cannot be written and no new key is given.
        KeystoreError: Any other kind: nothing was changed.
    """
    timeout_s = as_seconds("lock_timeout", lock_timeout)
    source = key_source(key)
    new_source = None if new is None else key_source(new)
    store = store_path(path)
    writable = source if isinstance(source, WritableKeySource) else None
    dropped: tuple[str, ...] = ()
    kept: tuple[KeyUse, ...] = ()
    with nullcontext() if writable is None else writable.lock(timeout_s):
        with closing(FileStorage(store, KeyRing(source), lock_timeout=timeout_s, create=False)) as storage:
            primary, old = _reencrypt(storage, source, new_source)
        if writable is not None and not keep_old:
            with _unfinished(
                "the store is sealed with the new key, but the old keys could not be removed from the ring"
            ):
                dropped, kept = _remove_unused(writable, old, store)
    return Rotation(store, str(source), fingerprint(primary), dropped, kept, manual_distribution=writable is None)


def add_key(key: str | None = None, *, lock_timeout: float = 10.0) -> tuple[str, str]:
    """Make a key and put it above the others of a ring; the next save encrypts the store with it.

    Returns:
        The ring's spec and the key's fingerprint.

    Raises:
        ConfigurationError: The source cannot be written.
        KeystoreError: The key was not added.
    """
    source = _writable(key)
    made = new_key()
    with source.lock(as_seconds("lock_timeout", lock_timeout)):
        source.add(made)
    return str(source), fingerprint(made)


def prune(
    path: str | os.PathLike[str] | None = None, *, key: str | None = None, lock_timeout: float = 10.0
) -> tuple[str, ...]:
    """Remove the keys of a ring that no file needs, except for the newest; return their fingerprints.

    Args:
        path: The store, as for :func:`open_keystore`; it has to open. Files beside it count as well.
        key: Where its keys come from, as for :func:`open_keystore`, but not as bytes.
        lock_timeout: How many seconds to wait for the lock of the ring.

    Raises:
        ConfigurationError: The source cannot be written.
        KeystoreError: No key was removed.
    """
    source = _writable(key)
    store = store_path(path)
    with source.lock(as_seconds("lock_timeout", lock_timeout)):
        # A store that is missing or does not open may need any of the keys.
        FileStorage(store, KeyRing(source), lock_timeout=0.0, create=False).close()
        dropped, _ = _remove_unused(source, source.load()[1:], store)
    return dropped


def _writable(key: str | None) -> WritableKeySource:
    source = key_source(key)
    if isinstance(source, WritableKeySource):
        return source
    raise ConfigurationError(
        f"the keys of {source} cannot be changed from here", "Change them where you hand them out; newest first"
    )


def _reencrypt(storage: FileStorage, source: KeySource, new_source: KeySource | None) -> tuple[bytes, Sequence[bytes]]:
    """Encrypt the store with its new primary key; return that key and the old ones."""
    primary = b""
    old: Sequence[bytes] = ()
    is_added = False
    # Before the store is locked: a program that prints keys may take so long that other processes lose their saves.
    keys = source.load()
    given = None if new_source is None else new_source.load()[0]

    def prepare(sealed_with: str) -> KeyRing:
        nonlocal primary, old, is_added
        primary = given or _choose_primary(source, keys, sealed_with)
        old = [key for key in keys if key != primary]
        if isinstance(source, WritableKeySource):
            source.add(primary)
            is_added = primary != keys[0]
            if source.load()[0] != primary:
                raise KeyUnavailableError(f"{source} does not hold the new key that was put there", "Check it")
        return KeyRing(GivenKeys([primary, *keys]))

    try:
        storage.reencrypt(prepare)
    except KeystoreError:
        if not is_added:
            raise
        with _unfinished("a new key is in the ring, but the store is not sealed with it"):
            raise
    return primary, old


def _choose_primary(source: KeySource, keys: Sequence[bytes], sealed_with: str) -> bytes:
    if fingerprint(keys[0]) != sealed_with:
        return keys[0]
    if isinstance(source, WritableKeySource):
        return new_key()
    raise ConfigurationError(
        f"the store is sealed with the newest key of {source} already, and a new key cannot be put there from here",
        "Make a new key; hand NEW,OLD to all processes (newest first); run this again with NEW,OLD, or with the new "
        "one as --new-key; then hand out NEW alone",
    )


def _remove_unused(
    source: WritableKeySource, old: Sequence[bytes], store: Path
) -> tuple[tuple[str, ...], tuple[KeyUse, ...]]:
    """Remove those of the old keys that no file needs; return their fingerprints, and the use of the others.

    Only keys of ``old``: a key that a user has added since may be the one that the store is encrypted with by now.
    """
    usage = usage_of(old, store)
    unused = {use.fingerprint for use in usage if not use.files}
    if unused:
        source.remove([key for key in old if fingerprint(key) in unused])
    return tuple(use.fingerprint for use in usage if not use.files), tuple(use for use in usage if use.files)


@contextmanager
def _unfinished(problem: str) -> Iterator[None]:
    """Report a failure in the block as a rotation that the next one completes."""
    try:
        yield
    except DurabilityUnknownError:
        raise  # The change is made, and the error says so.
    except KeystoreError as error:
        advice = f"{error.advice}. Nothing is lost; then rotate again, which finishes it"
        raise RotationUnfinishedError(f"{problem}: {error.problem}", advice, error.path) from error
