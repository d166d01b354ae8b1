"""Diagnosis of a store, its keys, and their surroundings."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._fs import permissions
from zoho_keystore._fs.lock import lock_holders
from zoho_keystore._fs.paths import default_key_ring, is_same_file
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, key_source
from zoho_keystore._open import open_keystore, store_path
from zoho_keystore._platform import icacls_command, others_with_access, quote
from zoho_keystore._text import cli_command, count
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Parts of the names of directories that are synchronised with other machines.
_SYNCHRONISED = re.compile(
    r"dropbox|onedrive|google ?drive|icloud|mobile documents|nextcloud|owncloud|pcloud|mega(sync)?|syncthing|box sync",
    re.IGNORECASE,
)
#: Files in which the SDK's own stores and samples keep tokens in plain text.
_PLAIN_TEXT_FILES = ("sdk_tokens.txt", "zohooauth.db")
_GIT_TIMEOUT_S = 10.0


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
        path: The store, as for :class:`EncryptedFileStore`.
        key: The source of its keys, likewise.
    """
    return list(_diagnostics(path, key))


def _diagnostics(path: str | os.PathLike[str] | None, key: str | None) -> Iterator[Diagnostic]:
    try:
        store = store_path(path)
    except KeystoreError as error:
        yield _from_error(error)
        return
    ring: Path | None = None
    has_keys = False
    try:
        source = key_source(key)
        ring = getattr(source, "path", None)
        number = len(source.load())
        has_keys = True
        yield _info(f"the store's keys come from {_origin(key)}: {source} ({count(number, 'key')})")
    except KeystoreError as error:
        yield _from_error(error)
    # The value of --key may be a key by mistake, so fixes repeat it only if it is a spec that works.
    command = partial(cli_command, store=None if path is None else os.fspath(path), key=key if has_keys else None)
    # Before the store is opened: opening restricts modes.
    yield from _check_modes(store, command)
    if ring is not None:
        yield from _check_ring_location(ring, store)
    yield from _check_store_location(store)
    yield from _check_temp_files(store)
    yield from _check_lock(store)
    # Without keys the store does not open, which was reported above.
    if has_keys:
        yield from _check_content(store, key, command)
    yield from _check_plain_text(store, command)


def _info(what: str) -> Diagnostic:
    return Diagnostic(is_problem=False, what=what)


def _problem(what: str, fix: str) -> Diagnostic:
    return Diagnostic(is_problem=True, what=what, fix=fix)


def _from_error(error: KeystoreError) -> Diagnostic:
    where = f"{error.path}: " if error.path is not None else ""
    return _problem(where + error.problem, error.advice)


def _origin(key: str | None) -> str:
    if key is not None:
        return "--key"
    for name in (KEY_VARIABLE, RING_VARIABLE):
        if os.environ.get(name):
            return f"the variable {name}"
    return "the user's config directory"


def _check_modes(store: Path, command: Callable[..., str]) -> Iterator[Diagnostic]:
    for path, is_directory in ((store.parent, True), (store, False), (_lock_file(store), False)):
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            if path == store:
                yield _problem(f"{store}: there is no store", f"Check the path, or create one: {command('init')}")
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
        loose = stat.S_IMODE(status.st_mode) & (0o022 if is_directory else 0o077)
        if loose and not (is_directory and status.st_mode & stat.S_ISVTX):
            mode = "go-w" if is_directory else "600"
            yield _problem(
                f"{path}: mode {stat.S_IMODE(status.st_mode):04o} gives other users access",
                f"chmod {mode} {quote(str(path))}",
            )


def _check_acl(path: Path) -> Iterator[Diagnostic]:
    with suppress(OSError):
        if others := others_with_access(path):
            yield _problem(f"{path}: {', '.join(others)} can use it as well", icacls_command(path))


def _check_ring_location(ring: Path, store: Path) -> Iterator[Diagnostic]:
    yield from _check_acl(ring)
    if is_same_file(ring.parent, store.parent):
        yield _problem(
            f"{ring}: the key ring is in the same directory as the store, so a copy of the directory has both",
            f"Move it to another directory, such as {_other_directory(store)}, and set {RING_VARIABLE}",
        )
    yield from _check_synchronised(ring, "the key ring", "Move it to a directory that stays on this machine")
    if (tree := _work_tree(ring)) is not None:
        yield _problem(
            f"{ring}: the key ring is in the git work tree {tree}",
            "Move it out of there; if it was ever committed, rotate the key",
        )


def _other_directory(store: Path) -> Path:
    # On some systems the user's config and data directories are the same.
    directory = default_key_ring().parent
    return directory if directory != store.parent else directory.with_name(f"{directory.name}-keys")


def _check_store_location(store: Path) -> Iterator[Diagnostic]:
    yield from _check_synchronised(
        store, "the store", "Move it: two machines that write it overwrite each other's tokens"
    )
    tree = _work_tree(store)
    if tree is not None and not _is_ignored(store, tree):
        yield _problem(
            f"{store}: the store is in the git work tree {tree}, and not ignored there",
            f"Add a line to {tree / '.gitignore'}: {store.name}",
        )


def _check_synchronised(path: Path, what: str, fix: str) -> Iterator[Diagnostic]:
    for directory in path.parents:
        if _SYNCHRONISED.search(directory.name) or os.path.exists(directory / ".stfolder"):
            yield _problem(f"{path}: {what} is in {directory}, which is synchronised with other machines", fix)
            return


def _work_tree(path: Path) -> Path | None:
    return next((directory for directory in path.parents if os.path.exists(directory / ".git")), None)


def _is_ignored(path: Path, tree: Path) -> bool:
    """Tell whether git ignores a file; if git fails, whether .gitignore names the file."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(  # noqa: S603 - a fixed program
            ["git", "-C", str(tree), "check-ignore", "--quiet", str(path)],  # noqa: S607 - the git that the user runs
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_GIT_TIMEOUT_S,
        )
        # Other codes: git is broken, or does not trust the owner of the directory.
        if done.returncode in (0, 1):
            return done.returncode == 0
    with suppress(OSError):
        return path.name in (tree / ".gitignore").read_text(encoding="utf-8", errors="replace").split()
    return False


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


def _check_content(store: Path, key: str | None, command: Callable[..., str]) -> Iterator[Diagnostic]:
    # A missing store was reported by the check of its mode.
    if not os.path.lexists(store):
        return
    try:
        with closing(open_keystore(store, key=key, create=False)) as keystore:
            records = keystore.records()
    except KeystoreError as error:
        yield _from_error(error)
        return
    yield _info(f"{store}: opens, and holds {count(len(records), 'token')}")
    now_ms = time.time_ns() // 1_000_000
    for record in records:
        expires_at_ms = record.expires_at_ms
        if not record.refresh_token and expires_at_ms is not None and expires_at_ms < now_ms:
            yield _problem(
                f"token {record.id!r} has expired, and has no refresh token",
                f"Sign in again with a grant token, or delete it: {command('delete', record.id)}",
            )


def _check_plain_text(store: Path, command: Callable[..., str]) -> Iterator[Diagnostic]:
    directories = {store.parent}
    for directory in (Path.cwd, Path.home):
        # The current directory may have been deleted, and the user may have no home.
        with suppress(OSError, RuntimeError):
            directories.add(directory())
    for place in sorted(directories):
        for name in _PLAIN_TEXT_FILES:
            if os.path.isfile(place / name):
                yield _problem(
                    f"{place / name}: tokens in plain text, of the SDK's own store or sample",
                    command("import", "--remove-source", str(place / name)),
                )
