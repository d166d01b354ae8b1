"""Each finding of the doctor with its cure."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import OTHER_UID, as_other_user
from zoho_keystore._fs import permissions
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE
from zoho_keystore._open import FILE_VARIABLE, open_keystore
from zoho_keystore._operations import doctor
from zoho_keystore._operations.doctor import Diagnostic, diagnose
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

as_root = pytest.mark.skipif(not permissions.is_root(), reason="only root can give files away")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what lies around the checkout out of it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Give a key ring."""
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    path = directory / "ring"
    path.write_bytes(Fernet.generate_key() + b"\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def store(store_path: Path, ring: Path) -> Path:
    """Give a store that is as it should be."""
    with closing(open_keystore(store_path, key=f"file:{ring}")) as keystore:
        keystore.save(TokenRecord(refresh_token="r", access_token="a", expires_in="1"))
    return store_path


def troubles(store: Path | None, ring: Path | None) -> list[Diagnostic]:
    """Return what is to be cured."""
    found = diagnose(store, key=None if ring is None else f"file:{ring}")
    assert all(bool(finding.fix) is finding.is_problem for finding in found)
    return [finding for finding in found if finding.is_problem]


def the_one(store: Path, ring: Path) -> tuple[str, str]:
    """Return what the one trouble is, and its cure."""
    [found] = troubles(store, ring)
    return found.what, found.fix


def test_a_good_store_has_nothing_to_be_cured(store: Path, ring: Path) -> None:
    """What was found is told."""
    assert diagnose(store, key=f"file:{ring}") == [
        Diagnostic(is_problem=False, what=f"the store's keys come from --key: file:{ring} (1 key)"),
        Diagnostic(is_problem=False, what=f"{store}: opens, and holds 1 token"),
    ]


def test_where_the_keys_come_from_is_told(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, or what another one names; and how many there are."""
    ring.write_bytes(ring.read_bytes() + Fernet.generate_key() + b"\n")
    monkeypatch.setenv(RING_VARIABLE, str(ring))
    assert diagnose(store)[0].what == f"the store's keys come from the variable {RING_VARIABLE}: file:{ring} (2 keys)"
    monkeypatch.setenv(KEY_VARIABLE, ring.read_text().split()[0])
    assert (
        diagnose(store)[0].what == f"the store's keys come from the variable {KEY_VARIABLE}: env:{KEY_VARIABLE} (1 key)"
    )
    with closing(open_keystore(store)) as keystore:
        keystore.save(TokenRecord(access_token="b"))
    assert diagnose(store)[1].what == f"{store}: opens, and holds 2 tokens"


def test_what_opening_needs_is_told_once(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not there, no key at all, a path that is none, a wrong key, a store that is not there."""
    assert the_one(store, ring.with_name("none")) == (
        f"{ring.with_name('none')}: the key ring cannot be read: no such file or directory",
        "Check the path, and who may read it",
    )
    [found] = troubles(store, None)
    assert found.what.startswith("no key is set")
    monkeypatch.setenv(FILE_VARIABLE, "a\0b" if os.name != "posix" else Fernet.generate_key().decode())
    [found] = troubles(None, ring)
    assert found.what == "the path holds what looks like a key"
    ring.write_bytes(Fernet.generate_key())
    what, fix = the_one(store, ring)
    assert what.startswith(f"{store}: the key is wrong or the file is damaged")
    assert "restore the file from a backup" in fix
    store.unlink()
    assert the_one(store, ring) == (
        f"{store}: there is no store",
        "Check the path, or make one: zoho-keystore init",
    )
    assert the_one(store.parent / "none" / "store", ring)[0].endswith("none/store: there is no store")


@pytest.mark.parametrize("name", ["tokens.keystore", ".tokens.keystore.lock"])
def test_files_that_others_may_read_are_told(name: str, store: Path, ring: Path) -> None:
    """Before opening the store has closed them; the cure can be copied."""
    path = store.with_name(name)
    path.chmod(0o640)
    what, fix = the_one(store, ring)
    assert what == f"{path}: mode 0640 lets other users in"
    subprocess.run(shlex.split(fix), check=True)
    assert troubles(store, ring) == []


def test_a_folder_in_which_others_may_replace_files_is_told(store: Path, ring: Path) -> None:
    """The cure can be copied, also where the path has a quote in it."""
    directory = store.parent.rename(store.parent.with_name("Ann's store"))
    store = directory / store.name
    directory.chmod(0o770)
    found = troubles(store, ring)
    assert [one.what for one in found] == [
        f"{directory}: mode 0770 lets other users in",
        f"{directory}: mode 0770 lets other users replace files in this folder",
    ]
    subprocess.run(shlex.split(found[0].fix), check=True)
    assert troubles(store, ring) == []
    directory.chmod(0o1777)
    assert troubles(store, ring) == []


def test_a_ring_that_others_may_read_is_told(store: Path, ring: Path) -> None:
    """As the store says it."""
    ring.chmod(0o644)
    what, fix = the_one(store, ring)
    assert what == f"{ring}: the key ring is not safe: mode 0644 lets other users read or change the keys"
    assert f"chmod 600 {ring}" in fix


def test_files_of_another_user_are_told(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root they open all the same."""
    me, other = 0, OTHER_UID
    if permissions.is_root():
        os.chown(store, other, other)
    else:
        me, other = os.geteuid() + 1, os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me)
    [found] = [one for one in troubles(store, ring) if one.what.startswith(f"{store}: belongs")]
    assert found.what == f"{store}: belongs to user {other}, and you are user {me}"
    assert "chown" in found.fix


@as_root
def test_what_one_may_not_look_at_is_told(store: Path, ring: Path) -> None:
    """Rather than a traceback."""
    # The folder that pytest makes for all tests of this user is closed to others.
    told = as_other_user(lambda: [one.what for one in diagnose(store, key=f"file:{ring}")])
    assert f"{store}: Permission denied" in told
    assert "Error:" not in told


def test_a_path_below_a_file_is_told(store: Path, ring: Path) -> None:
    """There is no store, and there cannot be one."""
    (store.parent / "file").write_bytes(b"")
    assert troubles(store.parent / "file" / "store", ring)[0].what == f"{store.parent}/file/store: Not a directory"


def test_owners_and_modes_are_nothing_where_there_are_none(
    store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setattr(permissions, "HAS_OWNERS", False)
    store.chmod(0o644)
    assert troubles(store, ring) == []


# --- Places ---------------------------------------------------------------------------------------------------------


def test_a_ring_beside_the_store_is_told(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the user's folders for settings and for data are the same."""
    beside = store.with_name("ring")
    shutil.move(ring, beside)
    what, fix = the_one(store, beside)
    assert what.startswith(f"{beside}: the key ring is in the same folder as the store")
    assert fix == f"Move it to another folder, such as {Path.home()}/zoho-keystore, and set {RING_VARIABLE}"
    monkeypatch.setattr(doctor, "default_key_ring", lambda: store.with_name("keyring"))
    assert the_one(store, beside)[1].startswith(f"Move it to another folder, such as {store.parent}-keys,")


@pytest.mark.parametrize("name", ["Dropbox", "OneDrive - Company", "Nextcloud", "iCloud Drive", "with .stfolder"])
def test_folders_that_are_copied_to_other_machines_are_told(name: str, store: Path, ring: Path, tmp_path: Path) -> None:
    """For the ring, and for the store."""
    directory = tmp_path / name
    directory.mkdir(mode=0o700)
    if name == "with .stfolder":
        (directory / ".stfolder").mkdir()
    for path in (store, ring):
        shutil.copy(path, directory)
    what, fix = the_one(directory / store.name, ring)
    assert what == f"{directory / store.name}: the store is in {directory}, which is copied to other machines"
    assert fix.startswith("Move it")
    what, fix = the_one(store, directory / ring.name)
    assert what == f"{directory / ring.name}: the key ring is in {directory}, which is copied to other machines"
    assert fix == "Move it to a folder that stays on this machine"


@pytest.fixture
def tree(store: Path) -> Path:
    """Give the git work tree that the store is in."""
    subprocess.run(["git", "init", "--quiet", str(store.parent)], check=True)  # noqa: S607 - whatever git there is
    return store.parent


def test_a_store_in_a_work_tree_is_to_be_ignored(tree: Path, store: Path, ring: Path) -> None:
    """By whatever pattern."""
    what, fix = the_one(store, ring)
    assert what == f"{store}: the store is in the git work tree {tree}, and not ignored there"
    assert fix == f"Add a line to {tree / '.gitignore'}: tokens.keystore"
    (tree / ".gitignore").write_text("*.keystore\n")
    assert troubles(store, ring) == []


def _without_git(_tree: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("PATH", "")


def _with_a_git_that_hangs(tree: Path, patch: pytest.MonkeyPatch) -> None:
    (tree.parent / "git").write_text("#!/bin/sh\nexec sleep 20\n")
    (tree.parent / "git").chmod(0o700)
    patch.setenv("PATH", f"{tree.parent}:{os.environ['PATH']}")
    patch.setattr(doctor, "_GIT_TIMEOUT_S", 0.1)


def _with_a_broken_tree(tree: Path, _patch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tree / ".git")
    (tree / ".git").mkdir()


@pytest.mark.parametrize("break_git", [_without_git, _with_a_git_that_hangs, _with_a_broken_tree])
def test_where_git_cannot_tell_the_file_itself_is_read(
    break_git: Callable[[Path, pytest.MonkeyPatch], None],
    tree: Path,
    store: Path,
    ring: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There the store has to be named in it."""
    break_git(tree, monkeypatch)
    assert "not ignored there" in the_one(store, ring)[0]
    (tree / ".gitignore").write_text("tokens.keystore\n")
    assert troubles(store, ring) == []


def test_a_ring_has_no_place_in_a_work_tree(store: Path, ring: Path) -> None:
    """Ignored or not: it is one command away from being published."""
    subprocess.run(["git", "init", "--quiet", str(ring.parent)], check=True)  # noqa: S607 - whatever git there is
    (ring.parent / ".gitignore").write_text("*\n")
    what, fix = the_one(store, ring)
    assert what == f"{ring}: the key ring is in the git work tree {ring.parent}"
    assert "rotate the key" in fix


# --- What lies around -----------------------------------------------------------------------------------------------


def test_leftovers_of_writers_are_told(store: Path, ring: Path) -> None:
    """And no other files."""
    leftover = store.with_name(f".{store.name}.{'0a' * 8}.tmp")
    leftover.write_bytes(b"")
    store.with_name(f".{store.name}.tmp").write_bytes(b"")
    assert the_one(store, ring) == (
        f"{leftover}: a writer that was killed has left it",
        "The next save removes it; it holds nothing but a sealed state",
    )


HOLDER = """
import sys
from zoho_keystore._open import open_keystore
with open_keystore(sys.argv[1], key=sys.argv[2])._vault.transaction():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store: Path, ring: Path) -> Iterator[subprocess.Popen[str]]:
    """Give another process that holds the store's lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store), f"file:{ring}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()
        process.wait(20)


def test_who_holds_the_lock_is_told(holder: subprocess.Popen[str], store: Path, ring: Path) -> None:
    """The process, and its program."""
    what, fix = the_one(store, ring)
    program = Path(f"/proc/{holder.pid}/comm").read_text(encoding="utf-8").strip()
    assert what == f"{store.with_name('.tokens.keystore.lock')}: process {holder.pid} ({program}) holds the lock"
    assert "Do not delete the lock file" in fix


def test_a_holder_may_be_gone_or_nobody_may_tell(
    store: Path, ring: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is unknown, or nothing is told."""
    really_open = open

    def without(beginning: str) -> Callable[..., Any]:
        def opened(file: Any, *args: Any, **options: Any) -> Any:
            if str(file).startswith(beginning):
                raise FileNotFoundError
            return really_open(file, *args, **options)

        return opened

    monkeypatch.setattr(Path, "read_text", without("/proc/"))
    assert f"process {holder.pid} (unknown) holds the lock" in the_one(store, ring)[0]
    monkeypatch.setattr("builtins.open", without("/proc/locks"))
    assert troubles(store, ring) == []


def test_expired_tokens_without_a_refresh_token_are_told(store: Path, ring: Path) -> None:
    """Nobody can use them again; of others nothing is said. The cure can be copied."""
    with closing(open_keystore(store, key=f"file:{ring}")) as keystore:
        keystore.save(TokenRecord(access_token="1", expires_in=str(4 * 10**12)))
        keystore.save(TokenRecord(access_token="2"))
        keystore.save(TokenRecord(id="it's old", access_token="3", expires_in="1000"))
    what, fix = the_one(store, ring)
    assert what == 'token "it\'s old" has expired, and has no refresh token'
    assert shlex.split(fix.partition(": ")[2]) == ["zoho-keystore", "delete", "it's old"]


@pytest.mark.parametrize("name", ["sdk_tokens.txt", "zohooauth.db"])
@pytest.mark.parametrize("place", ["here", "home", "store"])
def test_plain_text_near_the_store_is_told(name: str, place: str, store: Path, ring: Path, tmp_path: Path) -> None:
    """In the current folder, at home, and beside the store."""
    path = tmp_path / place / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    assert the_one(store, ring) == (
        f"{path}: tokens in plain text, of the SDK's own store or sample",
        f"zoho-keystore import --remove-source {path}",
    )


def test_folders_that_are_not_there_are_not_looked_into(
    store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A shell may stand in one that was removed, and a user may have no home."""

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    Path.cwd().rmdir()
    try:
        assert troubles(store, ring) == []
    finally:
        os.chdir(tmp_path)
