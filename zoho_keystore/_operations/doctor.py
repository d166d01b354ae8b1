"""Diagnosis of a store, its keys, and their surroundings."""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions
from zoho_keystore._fs.lock import lock_holders
from zoho_keystore._fs.paths import default_key_ring, is_same_file
from zoho_keystore._fs.private_file import read_prefix
from zoho_keystore._hidden import Hidden
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, key_source
from zoho_keystore._open import address_of, explained, open_keystore, spec_for_messages, store_path
from zoho_keystore._operations.gitignore import is_ignored, work_tree
from zoho_keystore._storage.store_file import no_store, require_replaceable
from zoho_keystore._text import cli_command, count
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_keystore._keys.sources import HiddenKey
    from zoho_keystore._open import HiddenPath
    from zoho_keystore._sql.address import SQLAddress

#: Parts of the names of directories that are synchronised with other machines.
_SYNCHRONISED = re.compile(
    r"dropbox|onedrive|google ?drive|icloud|mobile documents|nextcloud|owncloud|pcloud|mega(sync)?|syncthing|box sync",
    re.IGNORECASE,
)
#: Only small files are searched for tokens, and only their beginning.
_MAX_SEARCHED_FILE_BYTES = 4 * 1024 * 1024
_SEARCHED_BYTES = 64 * 1024

#: An access, refresh or grant token as Zoho makes them.
_TOKEN = re.compile(rb"(?<![0-9A-Za-z.])1000\.[0-9a-f]{32}\.[0-9a-f]{32}(?![0-9a-f])")
_SQLITE_MAGIC = b"SQLite format 3\0"
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


class Diagnostic(NamedTuple):
    """The result of a check.

    Attributes:
        is_problem: Whether the user should act; otherwise this is for information.
        what: What was found, and where.
        fix: What to do; empty if this is not a problem.
    """

    is_problem: bool
    what: str
    fix: str = ""


def diagnose(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> list[Diagnostic]:
    """Check a store, its keys, and their surroundings. Nothing is changed, except for modes that opening restricts.

    Args:
        path: The store, as for :class:`EncryptedFileStore`, or the address of a database.
        key: The source of its keys, likewise.
    """
    hidden_path, hidden_key = Hidden(path), Hidden(key)
    del path, key  # See zoho_keystore._hidden.
    return list(_diagnostics(hidden_path, hidden_key))


def _diagnostics(path: HiddenPath, key: HiddenKey) -> Iterator[Diagnostic]:
    try:
        address = address_of(path)
        of_store = (
            _file_diagnostics(store_path(path), path, key)
            if address is None
            else _database_diagnostics(address, path, key)
        )
    except KeystoreError as error:
        yield _Problems(None, None, None).of_error(error)
        return
    yield from of_store


def _database_diagnostics(address: SQLAddress, path: HiddenPath, key: HiddenKey) -> Iterator[Diagnostic]:
    problems = _Problems(None, address.name, spec_for_messages(key))
    ring, has_keys, found = _key_diagnostics(key, problems)
    yield from found
    try:
        yield from _server_diagnostics(address)
    except KeystoreError as error:
        yield problems.of_error(error)
        has_keys = False
    if address.path is not None:
        yield from _check_store_location(address.path)
    if ring is not None:
        yield from _check_ring_location(ring, address.path)
    if has_keys:
        yield from _check_content(address.name, path, key, problems)
    yield from _check_plain_text(address.path, ring, problems)


def _server_diagnostics(address: SQLAddress) -> Iterator[Diagnostic]:
    from zoho_keystore._sql.server import findings  # noqa: PLC0415 - needs SQLAlchemy, which is an extra

    for one in findings(address):
        yield Diagnostic(is_problem=bool(one.fix), what=f"{address.name}: {one.what}", fix=one.fix)


def _file_diagnostics(store: Path, path: HiddenPath, key: HiddenKey) -> Iterator[Diagnostic]:
    given = None if path.value is None else os.fspath(path.value)
    problems = _Problems(store, given, spec_for_messages(key))
    ring, has_keys, found = _key_diagnostics(key, problems)
    yield from found
    # Before the store is opened: opening restricts modes.
    yield from _check_files(store, problems)
    yield from _check_replaceable(store, problems)
    if ring is not None:
        yield from _check_ring_location(ring, store)
    yield from _check_store_location(store)
    yield from _check_temp_files(store)
    yield from _check_lock(store)
    # Without keys the store does not open, and a missing one was reported by the check of its files.
    if has_keys and os.path.lexists(store):
        yield from _check_content(str(store), path, key, problems)
    yield from _check_plain_text(store, ring, problems)


def _key_diagnostics(key: HiddenKey, problems: _Problems) -> tuple[Path | None, bool, list[Diagnostic]]:
    """Return the key ring's file, if there is one, whether there are keys, and what is to be said of them."""
    ring: Path | None = None
    try:
        source = key_source(key)
        ring = getattr(source, "path", None)
        number = len(source.load())
    except KeystoreError as error:
        return ring, False, [problems.of_error(error)]
    return ring, True, [_info(f"the store's keys come from {_origin(key)}: {source} ({count(number, 'key')})")]


class _Problems(NamedTuple):
    """What problems of one store have in common.

    Attributes:
        path: The store's file; None if it is not known.
        store: ``--store`` for commands in fixes; None is the default.
        key: ``--key`` likewise.
    """

    path: Path | None
    store: str | None
    key: str | None

    def command(self, *arguments: str) -> str:
        """Return a command that works on the same store."""
        return cli_command(*arguments, store=self.store, key=self.key)

    def of_error(self, error: KeystoreError) -> Diagnostic:
        """Return the problem that an error reports."""
        if self.path is not None:
            error = explained(error, self.path)
        error.name_store(self.store, self.key)
        where = f"{error.path}: " if error.path is not None else ""
        return _problem(where + error.problem, error.advice)


def _info(what: str) -> Diagnostic:
    return Diagnostic(is_problem=False, what=what)


def _problem(what: str, fix: str) -> Diagnostic:
    return Diagnostic(is_problem=True, what=what, fix=fix)


def _origin(key: HiddenKey) -> str:
    if key.value is not None:
        return "--key"
    for name in (KEY_VARIABLE, RING_VARIABLE):
        if os.environ.get(name):
            return f"the variable {name}"
    return "the user's config directory"


def _check_files(store: Path, problems: _Problems) -> Iterator[Diagnostic]:
    yield from _check_acl(store.parent)
    for path in (store, _lock_file(store)):
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            if path == store:
                yield problems.of_error(no_store(store))
            continue
        except OSError as error:
            yield _problem(f"{path}: {error.strerror}", "Check the permissions of its directory")
            continue
        if not permissions.HAS_OWNERS:
            yield from _check_acl(path)
            continue
        if status.st_uid not in (os.geteuid(), 0):
            yield _problem(
                f"{path}: belongs to user {status.st_uid}, and you are user {os.geteuid()}",
                "Run as its owner, or change the owner (chown)",
            )
        if permissions.is_open_to_others(status):
            yield _problem(
                f"{path}: mode {stat.S_IMODE(status.st_mode):04o} gives other users access",
                f"chmod 600 {platform.quote(str(path))}",
            )


def _check_acl(path: Path) -> Iterator[Diagnostic]:
    with suppress(OSError):
        if others := platform.others_with_access(path):
            yield _problem(f"{path}: {', '.join(others)} can use it as well", platform.icacls_command(path))


def _check_replaceable(store: Path, problems: _Problems) -> Iterator[Diagnostic]:
    if not os.path.lexists(store):
        return
    try:
        require_replaceable(store, may_restrict=False)
    except KeystoreError as error:
        yield problems.of_error(error)


def _check_ring_location(ring: Path, store: Path | None) -> Iterator[Diagnostic]:
    yield from _check_acl(ring)
    if store is not None and is_same_file(ring.parent, store.parent):
        yield _problem(
            f"{ring}: the key ring is in the same directory as the store, so a copy of the directory has both",
            f"Move it to another directory, such as {_other_directory(store)}, and set {RING_VARIABLE}",
        )
    yield from _check_synchronised(ring, "the key ring", "Move it to a directory that stays on this machine")
    if (tree := work_tree(ring)) is not None:
        yield _problem(
            f"{ring}: the key ring is in the git work tree {tree}",
            "Move it out of there; if it was ever committed, rotate the key",
        )


def _other_directory(store: Path) -> Path:
    # On some systems the user's config and data directories are the same; some users have no home.
    with suppress(KeystoreError):
        if (directory := default_key_ring().parent) != store.parent:
            return directory
    return store.parent.with_name(f"{store.parent.name}-keys")


def _check_store_location(store: Path) -> Iterator[Diagnostic]:
    yield from _check_synchronised(
        store, "the store", "Move it: two machines that write it overwrite each other's tokens"
    )
    tree = work_tree(store)
    if tree is not None and not is_ignored(store, tree):
        yield _problem(
            f"{store}: the store is in the git work tree {tree}, and not ignored there",
            f"Add a line to {tree / '.gitignore'}: {store.name}",
        )


def _check_synchronised(path: Path, what: str, fix: str) -> Iterator[Diagnostic]:
    for directory in path.parents:
        if _SYNCHRONISED.search(directory.name) or os.path.exists(directory / ".stfolder"):
            yield _problem(f"{path}: {what} is in {directory}, which is synchronised with other machines", fix)
            return


def _check_temp_files(store: Path) -> Iterator[Diagnostic]:
    temporary = re.compile(rf"\.{re.escape(store.name)}\.[0-9a-f]{{16}}\.tmp")
    with suppress(OSError):
        for name in sorted(filter(temporary.fullmatch, os.listdir(store.parent))):
            yield _problem(
                f"{store.parent / name}: temporary file of a writer that was killed",
                "The next save removes it; its content is sealed",
            )


def _lock_file(store: Path) -> Path:
    return store.with_name(f".{store.name}.lock")


def _check_lock(store: Path) -> Iterator[Diagnostic]:
    lock = _lock_file(store)
    with suppress(OSError):
        for pid in lock_holders(os.stat(lock, follow_symlinks=False)):
            yield _problem(
                f"{lock}: process {pid} ({_program(pid)}) holds the lock",
                "If it keeps the lock, the process hangs: end it. Do not delete the lock file",
            )


def _program(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return "unknown"


def _check_content(name: str, path: HiddenPath, key: HiddenKey, problems: _Problems) -> Iterator[Diagnostic]:
    try:
        with closing(open_keystore(path.value, key=key.value, create=False)) as keystore:
            records = keystore.records()
    except KeystoreError as error:
        yield problems.of_error(error)
        return
    yield _info(f"{name}: opens, and holds {count(len(records), 'token')}")
    now_ms = time.time_ns() // 1_000_000
    for record in records:
        expires_at_ms = record.expires_at_ms
        if not record.refresh_token and expires_at_ms is not None and expires_at_ms < now_ms:
            yield _problem(
                f"token {record.id!r} has expired, and has no refresh token",
                "Sign in again with a grant token, or delete it: "
                + problems.command("delete", *_as_argument(record.id)),
            )


def _as_argument(id: str) -> list[str]:
    return ["--", id] if id.startswith("-") else [id]


def _check_plain_text(store: Path | None, ring: Path | None, problems: _Problems) -> Iterator[Diagnostic]:
    directories = set() if store is None else {store.parent}
    # Closing a side file of a database would release the locks that SQLite holds for this process.
    skipped = {store, ring, *([] if store is None else [Path(f"{store}-wal"), Path(f"{store}-shm")])}
    for directory in (Path.cwd, Path.home):
        # The current directory may have been deleted, and the user may have no home.
        with suppress(OSError, RuntimeError):
            directories.add(directory())
    for place in sorted(directories):
        with suppress(OSError):
            for name in sorted(os.listdir(place)):
                # The cure must not remove the store itself; what it is was reported when it was opened.
                if place / name not in skipped:
                    yield from _check_plain_text_file(place / name, problems)


def _check_plain_text_file(path: Path, problems: _Problems) -> Iterator[Diagnostic]:
    try:
        content, status = read_prefix(path, _SEARCHED_BYTES)
    except (OSError, KeystoreError):
        return
    if status.st_size > _MAX_SEARCHED_FILE_BYTES:
        return
    if _is_of_the_sdk(content):
        what = f"{path}: tokens in plain text, of the SDK's own store or sample"
        if _TEMPORARY.fullmatch(path.name):
            yield _problem(f"{what}, left by an export that was killed", platform.remove_command(path))
        else:
            yield _problem(what, problems.command("import", "--remove-source", str(path)))
    elif _TOKEN.search(content):
        yield _problem(
            f"{path}: a token of Zoho in plain text",
            "Delete the token there. If other users or programs may have read it, revoke it at Zoho",
        )


def _is_of_the_sdk(content: bytes) -> bool:
    """Tell whether the beginning of a file is one of FileStore's, with a token, or one of the SQLite sample's."""
    if content.startswith(_SQLITE_MAGIC):
        return b"oauthtoken" in content.lower()
    header, _, rows = content.lstrip().partition(b"\n")
    return b"refresh_token" in header and b"access_token" in header and b"client_id" in header and bool(rows.strip())
