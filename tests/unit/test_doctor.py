"""Each diagnostic with its fix."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import OTHER_UID, as_other_user, words_of
from zoho_keystore import _platform as platform
from zoho_keystore._fs import mounts, permissions
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE
from zoho_keystore._open import FILE_VARIABLE, open_keystore
from zoho_keystore._operations import doctor, gitignore
from zoho_keystore._operations.doctor import Diagnostic, diagnose
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep plain-text files in the checkout out of the results."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # The directories of tests have the ACL that the system gives to temporary ones.
    monkeypatch.setattr(platform, "others_with_access", lambda _path: [])


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o700)
    path = directory / "ring"
    path.write_bytes(Fernet.generate_key() + b"\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def store(store_path: Path, ring: Path) -> Path:
    """Give a store without problems."""
    with closing(open_keystore(store_path, key=f"file:{ring}")) as keystore:
        keystore.save(TokenRecord(refresh_token="r", access_token="a", expires_in="1"))
    return store_path


def problems(store: Path | None, ring: Path | None) -> list[Diagnostic]:
    """Return the problems, each of which has to have a fix."""
    found = diagnose(store, key=None if ring is None else f"file:{ring}")
    assert all(bool(one.fix) is one.is_problem for one in found)
    return [one for one in found if one.is_problem]


def problem(store: Path, ring: Path) -> tuple[str, str]:
    """Return the only problem and its fix."""
    [found] = problems(store, ring)
    return found.what, found.fix


# --- Keys, store, permissions ---------------------------------------------------------------------------------------


def test_diagnose_names_the_key_source(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument, a variable, or what a variable names; and the number of keys and tokens."""

    def information(key: str | None = None) -> list[str]:
        found = diagnose(store, key=key)
        assert not any(one.is_problem for one in found)
        return [one.what for one in found]

    holds = f"{store}: opens, and holds 1 token"
    assert information(f"file:{ring}") == [f"the store's keys come from --key: file:{ring} (1 key)", holds]
    ring.write_bytes(ring.read_bytes() + Fernet.generate_key() + b"\n")
    monkeypatch.setenv(RING_VARIABLE, str(ring))
    assert information()[0] == f"the store's keys come from the variable {RING_VARIABLE}: file:{ring} (2 keys)"
    monkeypatch.setenv(KEY_VARIABLE, ring.read_text().split()[0])
    with closing(open_keystore(store)) as keystore:
        keystore.save(TokenRecord(access_token="b"))
    assert information() == [
        f"the store's keys come from the variable {KEY_VARIABLE}: env:{KEY_VARIABLE} (1 key)",
        f"{store}: opens, and holds 2 tokens",
    ]


def test_diagnose_reports_each_error_of_opening_once(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key ring, no key at all, a key as path, a wrong key, no store."""
    none = ring.with_name("none")
    what, fix = problem(store, none)
    assert what.startswith(f"{store}: the store is there, and its key is not: {none}: the key ring cannot be read: no ")
    assert fix.startswith("Check where its key is, or restore your copy of the key. ")
    [found] = problems(store, None)
    assert found.what.startswith(f"{store}: the store is there, and its key is not: no key is set")
    [found] = problems(store.parent / "none" / "store", None)[:1]
    assert found.what.startswith("no key is set")
    monkeypatch.setenv(FILE_VARIABLE, Fernet.generate_key().decode())
    [found] = problems(None, ring)
    assert found.what == "the path holds what looks like a key"
    ring.write_bytes(Fernet.generate_key())
    what, fix = problem(store, ring)
    assert what.startswith(f"{store}: the key is wrong or the file is damaged")
    assert "restore the file from a backup" in fix
    store.unlink()
    init = f"zoho-keystore --store {store} --key file:{ring} init"
    assert problem(store, ring) == (f"{store}: there is no store", f"Check the path, or create one: {init}")
    assert problem(store.parent / "none" / "store", ring)[0].endswith(f"{Path('none', 'store')}: there is no store")


@pytest.mark.needs_modes
@pytest.mark.parametrize(("name", "mode"), [("tokens.keystore", 0o640), (".tokens.keystore.lock", 0o604)])
def test_diagnose_reports_loose_modes_and_its_fix_works(name: str, mode: int, store: Path, ring: Path) -> None:
    """Before opening the store restricts them; a quote in the path is escaped."""
    directory = store.parent.rename(store.parent.with_name("Ann's store"))
    store = directory / store.name
    path = directory / name
    path.chmod(mode)
    found = problems(store, ring)[0]
    assert found.what == f"{path}: mode {mode:04o} gives other users access"
    subprocess.run(shlex.split(found.fix), check=True)
    assert problems(store, ring) == []


@pytest.mark.needs_modes
def test_diagnose_reports_files_of_another_user(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me, other = 0, OTHER_UID
    if permissions.is_root():
        os.chown(store, other, other)
    else:
        me, other = os.geteuid() + 1, os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me)
    [found] = [one for one in problems(store, ring) if one.what.startswith(f"{store}: belongs")]
    assert found.what == f"{store}: belongs to user {other}, and you are user {me}"
    assert "chown" in found.fix


@pytest.mark.skipif(not permissions.is_root(), reason="only root can become another user")
def test_diagnose_reports_what_it_may_not_look_at(store: Path, ring: Path) -> None:
    shown = as_other_user(lambda: [one.what for one in diagnose(store, key=f"file:{ring}")])
    assert f"{store}: Permission denied" in shown
    assert "Error:" not in shown


@pytest.mark.skipif(not permissions.is_root(), reason="only root can become another user")
def test_diagnose_reports_a_directory_in_which_the_user_cannot_save(public_directory: Path, store: Path) -> None:
    """The store can be read, and each save would fail."""
    moved, ring = public_directory / "store", public_directory / "ring"
    shutil.copy(store, moved)
    shutil.copy(store.parents[1] / "keys" / "ring", ring)
    for path in (moved, ring):
        os.chown(path, OTHER_UID, OTHER_UID)
    os.chdir("/")
    shown = as_other_user(lambda: [(one.what, one.fix) for one in diagnose(moved, key=f"file:{ring}")])
    assert f"this user may not create files in {public_directory}" in shown
    assert "Let the user that runs this own the directory" in shown
    assert "opens, and holds 1 token" in shown


@pytest.mark.needs_modes
def test_diagnose_accepts_a_sticky_directory_and_reports_other_errors(store: Path, ring: Path) -> None:
    store.parent.chmod(0o1777)
    assert problems(store, ring) == []
    (store.parent / "file").write_bytes(b"")
    assert problems(store.parent / "file" / "store", ring)[0].what == f"{store.parent}/file/store: Not a directory"
    ring.chmod(0o644)
    what, fix = problem(store, ring)
    assert what.startswith(f"{ring}: the key ring is not safe: mode 0644")
    assert f"chmod 600 {ring}" in fix


def test_diagnose_ignores_modes_on_systems_without_owners(
    store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permissions, "HAS_OWNERS", False)
    store.chmod(0o644)
    assert problems(store, ring) == []


# --- Locations ------------------------------------------------------------------------------------------------------


def test_diagnose_reports_a_key_ring_beside_the_store(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory in the fix is another one, also if config and data directory are the same."""
    beside = store.with_name("ring")
    shutil.move(ring, beside)
    what, fix = problem(store, beside)
    assert what.startswith(f"{beside}: the key ring is in the same directory as the store")
    config = Path(os.environ["WIN_PD_OVERRIDE_APPDATA"] if os.name == "nt" else os.environ["XDG_CONFIG_HOME"])
    assert fix == f"Move it to another directory, such as {config / 'zoho-keystore'}, and set {RING_VARIABLE}"
    monkeypatch.setattr(doctor, "default_key_ring", lambda: store.with_name("keyring"))
    assert problem(store, beside)[1].startswith(f"Move it to another directory, such as {store.parent}-keys,")


@pytest.mark.parametrize("name", ["Dropbox", "OneDrive - Company", "Nextcloud", "iCloud Drive", "with .stfolder"])
def test_diagnose_reports_synchronised_directories(name: str, store: Path, ring: Path, tmp_path: Path) -> None:
    directory = tmp_path / name
    directory.mkdir(mode=0o700)
    if name == "with .stfolder":
        (directory / ".stfolder").mkdir()
    for path in (store, ring):
        shutil.copy(path, directory)
    moved, moved_ring = directory / store.name, directory / ring.name
    where = f"is in {directory}, which is synchronised with other machines"
    assert problem(moved, ring)[0] == f"{moved}: the store {where}"
    assert problem(store, moved_ring)[0] == f"{moved_ring}: the key ring {where}"


def git(tree: Path, *arguments: str) -> int:
    """Run git in a work tree, and return its exit code."""
    return subprocess.run(["git", "-C", str(tree), *arguments], check=False, capture_output=True).returncode  # noqa: S607 - any git


@pytest.mark.needs_git
def test_diagnose_reports_a_store_that_git_does_not_ignore(
    store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No program is run: a repository's configuration may name any."""
    tree = store.parent
    git(tree, "init", "--quiet")
    git(tree, "config", "core.fsmonitor", f"touch {tree}/was-run")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(os, "system", None)
    assert problem(store, ring) == (
        f"{store}: the store is in the git work tree {tree}, and not ignored there",
        f"Add a line to {tree / '.gitignore'}: tokens.keystore",
    )
    (tree / ".gitignore").write_text("*.keystore\n")
    assert problems(store, ring) == []
    assert not (tree / "was-run").exists()


IGNORE_FILES: list[dict[str, str]] = [
    {".gitignore": pattern + "\n"}
    for pattern in (
        "# tokens.keystore",
        "  ",
        "tokens.keystore",
        "/tokens.keystore",
        "a/b/tokens.keystore",
        "/a/b/tokens.keystore",
        "b/tokens.keystore",
        "tokens.*",
        "token?.keystore",
        "token[s].keystore",
        "tokens.keystore/",
        "b/",
        "/b/",
        "a/**",
        "**/b/*",
        "a/**/tokens.keystore",
        "/**/tokens.keystore",
        "a/*",
        "*/tokens.keystore",
        "*/*/tokens.keystore",
        "*\n!tokens.keystore",
        "*.keystore\n!tokens.keystore",
        "!tokens.keystore\n*.keystore",
        "tokens.keystore   ",
        "store",
    )
] + [
    {"a/.gitignore": "/b/tokens.keystore\n"},
    {"a/.gitignore": "/tokens.keystore\n"},
    {"a/b/.gitignore": "*\n"},
    {".gitignore": "*.keystore\n", "a/b/.gitignore": "!*.keystore\n"},
    {".git/info/exclude": "*.keystore\n"},
    {".git/info/exclude": "*.keystore\n", ".gitignore": "!tokens.*\n"},
    {"../home/git/ignore": "*.keystore\n"},
    {"../home/git/ignore": "*.keystore\n", ".gitignore": "!a/\n"},
]


#: The numbers of those with which git ignores the file.
IGNORED = {2, 4, 5, 7, 8, 9, 11, 13, 14, 15, 16, 17, 19, 20, 22, 23, 25, 27, 29, 31, 32}


@pytest.mark.parametrize(("number", "files"), list(enumerate(IGNORE_FILES)), ids=str)
def test_diagnose_tells_as_git_whether_a_file_is_ignored(number: int, files: dict[str, str], tmp_path: Path) -> None:
    """By the files of patterns in the work tree and the user's own. What git says is known, and asked where it is."""
    tree = tmp_path / "store"
    path = tree / "a" / "b" / "tokens.keystore"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    (tree / ".git").mkdir()
    if has_git := shutil.which("git") is not None:
        git(tree, "init", "--quiet")
    for name, patterns in files.items():
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(patterns)
    is_ignored = number in IGNORED
    assert gitignore.is_ignored(path, tree) is is_ignored
    if has_git:
        assert is_ignored is (git(tree, "check-ignore", "--quiet", str(path)) == 0)


def test_diagnose_is_not_slowed_down_by_a_pattern_of_many_stars(tmp_path: Path) -> None:
    """A repository that was only cloned could make doctor run for years."""
    deep = tmp_path.joinpath("tree", *"abcdefghij")
    deep.mkdir(parents=True, mode=0o700)
    (tmp_path / "tree" / ".git").mkdir()
    (tmp_path / "tree" / ".gitignore").write_text("/".join(["**"] * 30) + "/none\n")
    started_s = time.monotonic()
    assert not gitignore.is_ignored(deep / "tokens.keystore", tmp_path / "tree")
    assert time.monotonic() - started_s < 5


@pytest.mark.needs_modes
def test_diagnose_skips_a_file_of_patterns_that_is_none(store: Path, ring: Path) -> None:
    """A directory, one that is far too large; it does not wait for the writer of a FIFO."""
    (store.parent / ".git" / "info").mkdir(parents=True)
    (store.parent / ".git" / "info" / "exclude").mkdir()
    os.mkfifo(store.parent / ".gitignore")
    assert problem(store, ring)[0].endswith("and not ignored there")
    (store.parent / ".gitignore").unlink()
    (store.parent / ".gitignore").write_text("*.keystore\n" * 30_000)
    assert problem(store, ring)[0].endswith("and not ignored there")


# --- Surroundings ---------------------------------------------------------------------------------------------------


IMPORT = "zoho-keystore --store {store} --key file:{ring} import --remove-source"
LEFT = ", left by an export that was killed"
REMOVE = platform.choose("rm", "Remove-Item -LiteralPath")
PLAIN = "tokens in plain text, of the SDK's own store or sample"
TEMPORARY = f".tokens.keystore.{'0a' * 8}.tmp"


@pytest.mark.parametrize(
    ("files", "what", "fix"),
    [
        (
            ["store/" + TEMPORARY, "store/.tokens.keystore.tmp"],
            "{tmp}/store/" + TEMPORARY + ": temporary file",
            "The next",
        ),
        (["keys/.git"], "{ring}: the key ring is in the git work tree {tmp}/keys", "Move it out of there"),
    ],
)
def test_diagnose_reports_files_around_the_store(
    files: list[str], what: str, fix: str, store: Path, ring: Path
) -> None:
    directory = store.parents[1]
    for name in files:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"")
    names = {"tmp": directory, "store": store, "ring": ring}
    found = problem(store, ring)
    assert found[0].startswith(what.replace("/", os.sep).format(**names))
    assert found[1].startswith(fix.format(**names))


CSV = b"id,user_name,client_id,client_secret,refresh_token,access_token\r\n"
TOKEN = b"1000." + b"0123456789abcdef" * 2 + b"." + b"fedcba9876543210" * 2


@pytest.mark.parametrize(
    ("name", "content", "what", "fix"),
    [
        ("here/any name", CSV + b"1,a,,,,\r\n", PLAIN, IMPORT + " '{path}'"),
        ("home/x", b"SQLite format 3\0" + b"CREATE TABLE OAuthToken", PLAIN, IMPORT + " {path}"),
        ("store/x", CSV.replace(b"user_name", b"user_mail") + b"1,a,,,,\r\n", PLAIN, IMPORT + " {path}"),
        (
            "store/.x.0123456789abcdef.tmp",
            CSV + b"1,a",
            PLAIN + ", left by an export that was killed",
            REMOVE + " {path}",
        ),
        ("here/.env", b"REFRESH=" + TOKEN + b"\n", "a token of Zoho in plain text", "Delete the token there."),
        # No tokens, or not to be read.
        ("here/sdk_tokens.txt", CSV, None, ""),
        ("here/sdk_tokens.txt", b"", None, ""),
        ("here/x.db", b"SQLite format 3\0" + b"CREATE TABLE other", None, ""),
        ("here/x", b"x" * 70_000 + TOKEN, None, ""),
        ("here/x", TOKEN + b"x" * 2**22, None, ""),
        ("here/x", TOKEN + b"0", None, ""),
    ],
)
def test_diagnose_finds_plain_text_by_its_content(
    name: str, content: bytes, what: str | None, fix: str, *, store: Path, ring: Path
) -> None:
    """Beside the store, in the current directory, and at home."""
    path = store.parents[1] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    if hasattr(os, "mkfifo"):
        os.mkfifo(path.with_name("fifo"))
    if what is None:
        assert problems(store, ring) == []
    else:
        found = problem(store, ring)
        assert found[0] == f"{path}: {what}"
        assert found[1].startswith(fix.format(path=path, store=store, ring=ring))


def test_diagnose_of_a_plain_text_file_does_not_offer_to_remove_it(store: Path, ring: Path) -> None:
    """The user has given its path as the store's."""
    plain = store.with_name("sdk_tokens.txt")
    plain.write_bytes(CSV + b"1,a,,,,\r\n")
    plain.chmod(0o600)
    what, fix = problem(plain, ring)
    assert "the plain-text file of the SDK's FileStore, not a keystore" in what
    assert fix == (
        "Give the store another path, then import the tokens: "
        f"zoho-keystore --key file:{ring} --store {store.with_name('sdk_tokens.keystore')} import {plain}"
    )


@pytest.mark.needs_modes
def test_diagnose_leaves_the_mode_of_a_directory(tmp_path: Path, ring: Path) -> None:
    """What was named as the store may be another program's file in a directory that users share; or an empty file."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for content in (CSV, b""):
        (shared / "file").write_bytes(content)
        assert any("lets other users replace files" in what for _, what, _ in problems(shared / "file", ring))
        assert shared.stat().st_mode & 0o777 == 0o777


HOLDER = """
import sys
from zoho_keystore import open_keystore
with open_keystore(sys.argv[1], key=sys.argv[2])._storage.transaction():
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


@pytest.mark.needs_modes
def test_diagnose_names_the_holder_of_the_lock(
    holder: subprocess.Popen[str], store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process and program; the program is unknown once the process has ended, and all is without /proc/locks."""
    lock = store.with_name(".tokens.keystore.lock")
    program = Path(f"/proc/{holder.pid}/comm").read_text(encoding="utf-8").strip()
    what, fix = problem(store, ring)
    assert what == f"{lock}: process {holder.pid} ({program}) holds the lock"
    assert "Do not delete the lock file" in fix
    original = open

    def open_without(prefix: str) -> Callable[..., Any]:
        def opened(file: Any, *args: Any, **options: Any) -> Any:
            if str(file).startswith(prefix):
                raise FileNotFoundError
            return original(file, *args, **options)

        return opened

    monkeypatch.setattr(Path, "read_text", open_without("/proc/"))
    assert problem(store, ring)[0] == f"{lock}: process {holder.pid} (unknown) holds the lock"
    monkeypatch.setattr("builtins.open", open_without("/proc/locks"))
    assert problems(store, ring) == []


def test_diagnose_reports_expired_tokens_without_a_refresh_token(store: Path, ring: Path) -> None:
    """The command in the fix names the same store and keys."""
    with closing(open_keystore(store, key=f"file:{ring}")) as keystore:
        keystore.save(TokenRecord(access_token="1", expires_in=str(4 * 10**12)))
        keystore.save(TokenRecord(access_token="2"))
        keystore.save(TokenRecord(id="it's old", access_token="3", expires_in="1000"))
    what, fix = problem(store, ring)
    assert what == 'token "it\'s old" has expired, and has no refresh token'
    command = ["zoho-keystore", "--store", str(store), "--key", f"file:{ring}", "delete", "it's old"]
    assert words_of(fix.partition(": ")[2]) == command
    with closing(open_keystore(store, key=f"file:{ring}")) as keystore:
        keystore.delete("it's old")
        keystore.save(TokenRecord(id="-x", access_token="3", expires_in="1000"))
    assert problem(store, ring)[1].endswith(" delete -- -x")


# --- A store that cannot be replaced ---------------------------------------------------------------------------------


def test_diagnose_reports_what_a_save_would_meet(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted file, a directory of another user, a read-only disk, a lock file that is none."""
    obstacles = {
        "is_mounted": "Mount its directory instead: docker -v DIRECTORY:",
        "_is_read_only": "Mount it writable",
    }
    for name, fix in obstacles.items():
        with monkeypatch.context() as patch:
            patch.setattr(mounts, name, lambda *_args: True)
            assert problem(store, ring)[1].startswith(fix)
    lock = store.with_name(f".{store.name}.lock")
    lock.unlink()
    lock.mkdir(mode=0o700)
    assert "lock" in problem(store, ring)[0]
    lock.rmdir()
    monkeypatch.setattr(mounts, "_is_writable", lambda *_args: False)
    assert "Let the user that runs this own the directory" in problem(store, ring)[1]


@pytest.mark.needs_posix_shell
def test_diagnose_does_not_repeat_a_key_or_the_arguments_of_a_key_command(store: Path, ring: Path) -> None:
    Path("sdk_tokens.txt").write_bytes(CSV + b"1,a,,,,")
    [found] = [one for one in diagnose(store, key=f"command:cat {ring}") if one.is_problem]
    assert found.fix.startswith(f"zoho-keystore --store {store} --key 'command:…' import --remove-source ")
    key = ring.read_text().strip()
    assert key not in repr(diagnose(store, key=key))


@pytest.mark.needs_modes
def test_diagnose_works_without_a_current_and_a_home_directory(
    store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The shell's directory may have been deleted, and the user may have no home."""

    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", no_home)
    Path.cwd().rmdir()
    try:
        assert problems(store, ring) == []
    finally:
        os.chdir(tmp_path)
