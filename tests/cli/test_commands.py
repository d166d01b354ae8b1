"""What each command does, and how it fails."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import click
import keyring
import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet
from keyrings.alt.file import PlaintextKeyring

from support import Terminal, invoke, refused, run_program, usage_error, words_of
from zoho_keystore import EncryptedFileStore, errors
from zoho_keystore._cli import EXIT_CODES, Failure, main
from zoho_keystore._fs import mounts
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._keys.sources import key_source
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if sys.platform != "win32":
    import pwd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


PLAIN_TEXT = b"id,user_name,client_id,client_secret,refresh_token,access_token\r\n1,ann,c,s,r,a\r\n"


def damage(path: Path) -> bytes:
    """Replace one character of a store by another one of the Base64 alphabet, and return the damaged content."""
    content = bytearray(path.read_bytes())
    content[100] = ord("A") if content[100] != ord("A") else ord("B")
    path.write_bytes(content)
    return bytes(content)


def ids() -> list[str]:
    """Return the ids of the tokens in the user's store."""
    with closing(open_keystore(create=False)) as keystore:
        return [record.id for record in keystore.records()]


def fingerprints(ring: Path) -> list[str]:
    """Return the fingerprints of the keys in a ring."""
    return [fingerprint(key) for key in key_source(f"file:{ring}").load()]


def files(directory: Path) -> dict[Path, bytes]:
    """Return all files below a directory, except for empty ones such as lock files."""
    found = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if content}


# --- Errors ---------------------------------------------------------------------------------------------------------

#: Each command with arguments that are valid in the fixture ``ready``.
COMMANDS = (
    "list",
    "list --json",
    "show 1",
    "delete 1 --yes",
    "delete --all --yes",
    "import source.csv",
    "import source.csv --dry-run",
    "import source.csv --remove-source",
    "export plain --plaintext",
    "rotate",
    "rotate --drop-old --quiet",
    "key prune --all-retired --yes",
    "verify",
    "verify --quiet",
    "backup copy",
    "restore old --yes",
    "key list",
    "key new",
    "init",
)


@pytest.fixture
def ready(store: Path, ring: Path) -> Path:
    """Give a store with a second key in the ring, and a source and a backup in the current directory."""
    invoke("export", "source.csv", "--plaintext")
    invoke("backup", "old")
    with ring.open("ab") as file:
        file.write(Fernet.generate_key() + b"\n")
    return store


@pytest.mark.parametrize(
    ("fault", "code", "still_work"),
    [
        # What repairs the store, and what needs only the keys.
        ("damaged", 4, {"restore old --yes", "key list", "key new"}),
        (
            "missing",
            6,
            {
                "restore old --yes",
                "key list",
                "key new",
                "init",
                "import source.csv",
                "import source.csv --dry-run",
                "import source.csv --remove-source",
            },
        ),
        ("no key", 3, set()),
        ("malformed key", 3, set()),
        ("wrong key", 4, {"key list", "key new"}),
    ],
)
def test_a_store_that_does_not_open_is_one_line_and_unchanged(
    fault: str, code: int, still_work: set[str], ready: Path, ring: Path
) -> None:
    """For every command, with the exit code of the error's family."""
    match fault:
        case "damaged":
            damage(ready)
        case "missing":
            ready.unlink()
        case "no key":
            ring.unlink()
        case "malformed key":
            ring.write_bytes(b"hunter2\n")
        case "wrong key":
            ring.write_bytes(Fernet.generate_key() + b"\n" + Fernet.generate_key() + b"\n")
    before = files(ready.parents[2])
    for command in COMMANDS:
        if command not in still_work:
            line = refused(code, *shlex.split(command))
            assert "hunter2" not in line
            assert "CANARY" not in line
            assert files(ready.parents[2]) == before, command
    for command in sorted(still_work - {"init"}):
        invoke(*shlex.split(command))


def test_commands_run_as_processes(ready: Path) -> None:
    done = run_program("show", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    damage(ready)
    done = run_program("verify", "--quiet")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert done.stderr.startswith(f"zoho-keystore: {ready}: the key is wrong or the file is damaged")


def test_each_error_family_has_its_own_exit_code() -> None:
    """Except for the families that no command meets; the codes for unexpected errors, 11 and 12 are not among them."""
    families = set(errors.KeystoreError.__subclasses__())
    assert families - EXIT_CODES.keys() == {errors.StoreClosedError, errors.SDKNotInstalledError}
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    for family, code in EXIT_CODES.items():
        for kind in {family, *family.__subclasses__()} - (EXIT_CODES.keys() - {family}):
            assert Failure(kind("it failed")).exit_code == code
    assert Failure(errors.StoreClosedError("it failed")).exit_code == 1
    assert not {0, 1, 11, 12} & {*EXIT_CODES.values()}


def test_a_lock_that_stays_taken_is_exit_code_8(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_keystore()) as other:
        storage: Any = other._storage
        monkeypatch.setattr(
            "zoho_keystore._cli.settings.open_keystore", lambda *_a, **_k: open_keystore(store, lock_timeout=0)
        )
        with storage.transaction():
            assert "lock" in refused(8, "delete", "1", "--yes")
    assert ids() == ["1", "2"]


def test_a_document_that_is_no_keystore_is_exit_code_5(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", Fernet.generate_key().decode())
    (work / "strange").write_bytes(Fernet(os.environ["KEY"]).encrypt(b"{}"))
    os.chmod(work / "strange", 0o600)
    assert "strange" in refused(5, "--store", "strange", "--key", "env:KEY", "verify")


def test_wrong_usage_is_exit_code_2(store: Path) -> None:
    """Nothing is changed, and a key in the wrong place is not repeated."""
    before = store.read_bytes()
    for arguments in (["shw"], ["show"], ["--stor", "x", "list"], ["delete"], ["delete", "1", "--all"], ["backup"]):
        assert "Usage: zoho-keystore" in usage_error(*arguments)
    assert "no known kind" in refused(2, "--key", "nonsense", "list")
    assert "path" in refused(2, "--store", "", "list")
    key = Fernet.generate_key().decode()
    for arguments in (["--key", key, "list"], ["--store", key, "list"]):
        assert key not in refused(2, *arguments)
    assert key not in invoke("--key", key, "doctor", code=12).output
    assert store.read_bytes() == before


@pytest.mark.parametrize("content", [b"a program's settings\n", b"", b"gAAAA", PLAIN_TEXT, b"SQLite format 3\0"])
def test_no_command_touches_the_mode_of_another_file(content: bytes, work: Path, store: Path) -> None:
    """Whichever user runs them: as the store, as a source, as a copy."""
    (work / "copy").write_bytes(content)
    (work / "copy").chmod(0o640)
    before = (work / "copy").stat()
    for command in COMMANDS:
        if not command.startswith(("import", "restore")):
            invoke("--store", "copy", *shlex.split(command), code=-1)
    for command in ("import copy", "import copy --dry-run", "restore copy --yes", "backup copy"):
        invoke(*shlex.split(command), code=-1)
    after = (work / "copy").stat()
    assert (after.st_mode, after.st_ino, after.st_ctime_ns) == (before.st_mode, before.st_ino, before.st_ctime_ns)
    assert (work / "copy").read_bytes() == content
    assert store.exists()


def test_version_and_short_help_option() -> None:
    assert re.fullmatch(r"zoho-keystore \d\S+\n", invoke("--version").stdout)
    assert invoke("-h").stdout == invoke("--help").stdout


def test_options_of_the_store_may_stand_behind_the_command(work: Path, store: Path) -> None:
    """Also of the commands of a group; the last one counts."""
    for arguments in (["init", "--store", "a"], ["--store", "b", "init"], ["init", "--store", "c", "--key", "file:r"]):
        assert "Created" in invoke(*arguments).stdout
    assert [(work / name).exists() for name in "abcr"] == [True] * 4
    invoke("--store", "none", "verify", "--store", "c", "--key", "file:r")
    refused(4, "--key", "file:r", "verify", "--store", "a")
    assert str(work / "c") in invoke("key", "list", "--store", "c", "--key", "file:r").stdout
    assert str(work / "c") in invoke("key", "--store", "c", "--key", "file:r", "list").stdout
    for command in ("list", "import", "key prune"):
        shown = invoke(*command.split(), "--help").stdout
        assert "--store PATH" in shown
        assert "--key SPEC" in shown
    assert store.exists()


@pytest.mark.needs_modes
@pytest.mark.parametrize(
    "command", ["init", "list", "key list", "key new", "verify", "doctor", "backup copy", "rotate --quiet"]
)
def test_a_store_and_a_key_are_enough_without_a_home(command: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry in /etc/passwd."""
    spec = f"file:{work.parent}/ring"
    invoke("--store", "s", "--key", spec, "init")
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", Mock(side_effect=KeyError))
    invoke("--store", "s", "--key", spec, *command.split())
    assert "no home directory" in invoke(*command.split(), code=12 if command == "doctor" else 2).output


@pytest.mark.needs_modes
def test_a_directory_that_is_missing_does_not_become_a_file(store: Path, work: Path) -> None:
    """Where the destination is written as a directory."""
    for command in (["backup", "new/"], ["export", "new/", "--plaintext"]):
        assert "there is no directory new/. Make it: mkdir -m 700 new/" in refused(6, *command)
    assert not (work / "new").exists()
    (work / "new").mkdir(mode=0o700)
    invoke("backup", "new/")
    assert len(list((work / "new").iterdir())) == 1
    assert store.exists()


@pytest.mark.needs_modes
def test_warnings_of_the_package_are_lines_on_stderr(store: Path) -> None:
    """That a store was made, init and import say themselves."""
    store.chmod(0o644)
    done = run_program("list", "--json")
    assert done.stderr == f"zoho-keystore: warning: {store}: mode was 0644 and let other users in; it is 0600 now\n"
    assert run_program("--store", "new", "init").stderr == ""
    assert logging.getLogger("zoho_keystore").handlers == []


# --- init -----------------------------------------------------------------------------------------------------------


def test_init_creates_key_and_store_once(work: Path, ring: Path) -> None:
    """Afterwards a store without arguments works; running it again changes nothing."""
    store = work.parent / "data" / "zoho-keystore" / "tokens.keystore"
    done = invoke("init")
    [name] = fingerprints(ring)
    assert done.stdout.splitlines() == [
        f"Created file:{ring} (key {name})",
        f"Created {store}",
        "Keep a copy of the key where you keep other secrets: without it, the store cannot be opened.",
        "EncryptedFileStore() finds both.",
    ]
    assert EncryptedFileStore().get_tokens() == []
    if os.name == "posix":
        assert (ring.stat().st_mode & 0o777, store.stat().st_mode & 0o777) == (0o600, 0o600)
    before = files(work.parent)
    assert invoke("init").stdout.splitlines() == [
        f"Exists already: file:{ring} (key {name})",
        f"Exists already: {store}",
        "EncryptedFileStore() finds both.",
    ]
    assert files(work.parent) == before


@pytest.mark.needs_modes
def test_init_prints_the_arguments_that_open_the_store(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring and a store elsewhere, a program with its arguments, and no key if the default finds it."""
    shown = invoke("--store", "mine/store", "init", "--keyring", "keys/ring").stdout
    code = shown.splitlines()[-1].removeprefix("Open it with ").removesuffix(".")
    assert code == f"EncryptedFileStore({str(work / 'mine' / 'store')!r}, key='file:{work}/keys/ring')"
    assert eval(code).get_tokens() == []  # noqa: S307 - users paste it
    monkeypatch.setenv("KEY", Fernet.generate_key().decode())
    shown = invoke("--store", "a", "--key", "command:printenv KEY", "init").stdout
    assert shown.endswith(f"Open it with EncryptedFileStore({str(work / 'a')!r}, key='command:printenv KEY').\n")
    assert "Exists already: command:printenv …" in shown
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", os.environ["KEY"])
    shown = invoke("--store", "b", "init").stdout
    assert shown.endswith(f"Open it with EncryptedFileStore({str(work / 'b')!r}).\n")
    assert "both name the key source" in usage_error("--key", "file:a", "init", "--keyring", "b")


@pytest.fixture
def _keyring_backend(work: Path) -> Iterator[None]:
    """Set a backend of the system's keyring that needs no desktop."""
    before = keyring.get_keyring()
    backend = PlaintextKeyring()
    backend.file_path = str(work / "system.cfg")
    keyring.set_keyring(backend)
    yield
    keyring.set_keyring(before)


@pytest.mark.usefixtures("_keyring_backend")
def test_init_creates_a_key_in_the_system_keyring_once() -> None:
    spec = "keyring:zoho-keystore/crm"
    assert invoke("--key", spec, "init").stdout.startswith(f"Created {spec} (key ")
    key = keyring.get_password("zoho-keystore", "crm")
    for store in ([], ["--store", "another"]):
        assert invoke("--key", spec, *store, "init").stdout.startswith(f"Exists already: {spec} (key ")
    assert keyring.get_password("zoho-keystore", "crm") == key
    invoke("--key", spec, "verify")


# --- delete, backup, restore ----------------------------------------------------------------------------------------


@pytest.mark.needs_pty
@pytest.mark.usefixtures("store")
def test_delete_asks_on_a_terminal() -> None:
    terminal = Terminal("delete", "1")
    terminal.answer("Delete 1 token? [y/N]", "n\n")
    assert "1  ann@example.com:77\n" in terminal.wait(11)
    assert ids() == ["1", "2"]
    terminal = Terminal("delete", "--all")
    terminal.answer("Delete 2 tokens? [y/N]", "y\n")
    assert terminal.wait().endswith("Deleted 2 tokens.\n")
    assert ids() == []


def test_delete_deletes_all_given_ids_or_none(store: Path) -> None:
    """Without a terminal it needs --yes."""
    before = store.read_bytes()
    assert "Give --yes to confirm" in usage_error("delete", "1")
    assert "no token has the id '9'; nothing was deleted" in refused(9, "delete", "1", "9", "--yes")
    assert store.read_bytes() == before
    assert invoke("delete", "2", "2", "1", "--yes").stdout == "Deleted 2 tokens.\n"
    assert ids() == []
    assert invoke("delete", "--all", "--yes").stderr == f"There are no tokens in {store}.\n"


@pytest.mark.needs_modes
def test_restore_lists_the_changes_and_keeps_the_replaced_file(store: Path, work: Path) -> None:
    """After a backup, a deletion, a change and a new token."""
    copy = work / "copy"
    assert invoke("backup", copy).stdout == f"Copied to {copy}\n"
    assert copy.read_bytes() == store.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert "Give another name" in refused(6, "backup", copy)
    invoke("delete", "2", "--yes")
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(id="1", api_domain="https://www.zohoapis.in"))
        keystore.save(TokenRecord(access_token="new"))
    before = store.read_bytes()
    assert "Give --yes to confirm" in invoke("restore", copy, code=2).stderr
    assert store.read_bytes() == before
    done = invoke("restore", copy, "--yes")
    assert done.stderr.splitlines() == [
        f"{copy} opens, and holds 2 tokens.",
        "1 token would be lost: 3",
        "1 token would be changed: 1",
        "1 token would be back again: 2",
    ]
    [kept] = store.parent.glob("tokens.keystore.replaced-*")
    assert done.stdout == f"Restored {store}. The replaced file is kept as {kept}\n"
    assert kept.read_bytes() == before
    assert ids() == ["1", "2"]
    assert invoke("restore", copy, "--yes").stderr.splitlines()[1:] == ["No token would change."]
    with closing(open_keystore()) as keystore:
        assert keystore.save(TokenRecord(access_token="newer")).id == "4"


@pytest.mark.needs_pty
def test_restore_replaces_a_damaged_and_a_missing_store(store: Path, work: Path) -> None:
    """In a directory, the copy is named after the store and the time."""
    invoke("backup", work)
    [copy] = work.iterdir()
    assert re.fullmatch(r"tokens\.keystore\.\d{8}T\d{6}Z", copy.name)
    damaged = damage(store)
    terminal = Terminal("restore", copy)
    terminal.answer("Replace the store with the copy? [y/N]", "y\n")
    assert "The store does not open now: the key is wrong or the file is damaged" in terminal.wait()
    [kept] = store.parent.glob("tokens.keystore.replaced-*")
    assert kept.read_bytes() == damaged
    store.unlink()
    assert invoke("restore", copy, "--yes").stdout == f"Restored {store}.\n"
    assert ids() == ["1", "2"]


# --- rotate, key, verify, doctor ------------------------------------------------------------------------------------


def test_rotate_retires_and_key_prune_drops_what_is_named(store: Path, ring: Path) -> None:
    """After a confirmation; nothing is dropped that was not named."""
    [old] = fingerprints(ring)
    done = invoke("rotate")
    new = fingerprints(ring)[0]
    prune = f"zoho-keystore key prune {old}"
    assert done.stdout == (
        f"{store} is sealed with the key {new}.\nRetired the old key {old}: other stores and backups may need it, so "
        f"file:{ring} keeps it for opening only.\nWhen nothing needs it any more, drop it: {prune}\n"
    )
    today = time.strftime("%Y-%m-%d", time.gmtime())
    columns = [line.split() for line in invoke("key", "list").stdout.splitlines()]
    assert columns == [
        ["KEY", "STATE", "SEALS"],
        [new, "primary", str(store)],
        [old, "retired", today, "no", "file", "found"],
    ]
    for arguments in ((), ("--yes",)):
        message = invoke("key", "prune", *arguments, code=2).stderr
        assert f"{old} (retired {today}) seals: no file found\n" in message
        assert "Give the keys to drop, or --all-retired." in message
    assert "exclude each other" in usage_error("key", "prune", old, "--all-retired")
    assert "Give --yes to confirm" in invoke("key", "prune", old, code=2).stderr
    assert "seals this store; nothing was dropped" in refused(2, "key", "prune", new, old)
    assert "has no key 01234567; nothing was dropped" in refused(2, "key", "prune", old, "01234567")
    assert fingerprints(ring) == [new, old]
    done = invoke(*words_of(prune)[1:], "--yes")
    assert (done.stdout, done.stderr) == (f"Dropped {old}\n", f"{old} (retired {today}) seals: no file found\n")
    assert fingerprints(ring) == [new]
    assert invoke("key", "prune", "--yes").stdout == "The ring holds no old keys.\n"
    assert f"has no key {old}; nothing" in refused(2, "key", "prune", old)
    assert ids() == ["1", "2"]


def test_key_prune_all_retired_keeps_what_a_backup_needs(store: Path, ring: Path) -> None:
    """And says so; a key that is not retired stays too."""
    copy = store.with_name("copy")
    invoke("backup", copy)
    [old] = fingerprints(ring)
    invoke("rotate")
    assert invoke("key", "prune", "--all-retired", "--yes").stdout == (
        "Nothing was dropped: there is no retired key that no file needs. See: zoho-keystore key list\n"
    )
    assert f"{old} retired" in " ".join(invoke("key", "list").stdout.split())
    copy.unlink()
    assert invoke("key", "prune", "--all-retired", "--yes").stdout == f"Dropped {old}\n"
    done = invoke("key", "new")
    newest, before = fingerprints(ring)
    assert done.stdout == f"Added the key {newest} to file:{ring}\n"
    assert "Nothing was dropped" in invoke("key", "prune", "--all-retired", "--yes").stdout
    assert fingerprints(ring) == [newest, before]
    assert invoke("rotate", "--quiet").output == ""
    assert "Dropped the old key" in invoke("rotate", "--drop-old").stdout
    assert len(fingerprints(ring)) == 1
    assert ids() == ["1", "2"]


def test_key_new_print_stores_nothing(work: Path) -> None:
    Fernet(invoke("key", "new", "--print").stdout.strip())
    assert files(work.parent) == {}


def test_rotate_with_distributed_keys_takes_the_new_key_from_a_spec(
    store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that cannot be written is not changed."""
    [old] = key_source(f"file:{ring}").load()
    monkeypatch.setenv("OLD", old.decode())
    monkeypatch.setenv("NEW", Fernet.generate_key().decode())
    assert "NEW,OLD" in refused(2, "--key", "env:OLD", "rotate")
    refused(2, "--key", "env:OLD", "key", "new")
    # The new key is missing, not the store's.
    assert "the store is there" not in refused(3, "--key", "env:OLD", "rotate", "--new-key", "env:NOT_SET")
    assert "env:OLD" in invoke("--key", "env:OLD", "rotate", "--new-key", "env:NEW").stdout
    assert invoke("--key", "env:NEW", "verify", "--quiet").output == ""
    assert store.exists()


def test_verify_prints_one_line(store: Path, ring: Path) -> None:
    shown = invoke("verify").stdout
    assert shown == f"{store}: intact, 2 tokens, sealed with the key {fingerprints(ring)[0]}, write 2\n"


def test_verify_fails_where_a_save_would(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted file, and a read-only disk, where other commands only read."""
    for name, problem in (
        ("is_mounted", "the file itself is mounted"),
        ("_is_read_only", "the file system is read-only"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(mounts, name, lambda *_args: True)
            assert f"{store}: the store could be read, but not saved: {problem}" in refused(6, "verify")
            assert "2 tokens" in invoke("doctor", code=12).stdout
            invoke("list")


def test_doctor_prints_information_and_problems(store: Path, ring: Path, work: Path) -> None:
    """The exit code is 12 if there is a problem; JSON has the documented shape."""
    information = [
        f"✓ the store's keys come from the user's config directory: file:{ring} (1 key)",
        f"✓ {store}: opens, and holds 2 tokens",
    ]
    assert invoke("doctor").stdout.splitlines() == [*information, "No problems found."]
    plain = work / "sdk_tokens.txt"
    plain.write_bytes(PLAIN_TEXT)
    what = f"{plain}: tokens in plain text, of the SDK's own store or sample"
    fix = f"zoho-keystore import --remove-source {plain}"
    assert invoke("doctor", code=12).stdout.splitlines() == [
        *information,
        f"✗ {what}",
        f"  → {fix}",
        "1 problem found.",
    ]
    found = json.loads(invoke("doctor", "--json", code=12).stdout)
    assert found[-1] == {"problem": True, "what": what, "fix": fix}
    assert found[0] == {"problem": False, "what": information[0][2:], "fix": None}


# --- Completion -----------------------------------------------------------------------------------------------------


def asking(words: str) -> dict[str, str]:
    """Return the variables by which bash asks for completions of the last of some words."""
    return {
        "_ZOHO_KEYSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"zoho-keystore {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }


def completions(words: str) -> list[str]:
    """Return what bash is offered for the last of some words."""
    done = CliRunner(env=asking(words)).invoke(main, prog_name="zoho-keystore")
    assert (done.exit_code, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


@pytest.mark.needs_modes
def test_completion_offers_commands_and_ids(store: Path, tmp_path: Path) -> None:
    """The ids of the store that --store names; none if it does not open; none that would steer the terminal."""
    with closing(open_keystore()) as keystore:
        for id in ("abc", "abd", "x\ny", "x$(id)", "x`id`", "x y", "x;y", "x'y", "-x"):
            keystore.save(TokenRecord(id=id, access_token="a"))
    assert completions("re") == ["refresh", "revoke", "restore"]
    assert completions("show a") == ["abc", "abd"]
    assert completions("delete x") == []
    assert [completions(f"{command} abd") for command in ("token", "exec", "refresh", "revoke")] == [["abd"]] * 4
    assert completions("delete -- ") == ["1", "2", "abc", "abd"]
    assert completions(f"--store {store} show abd") == ["abd"]
    assert completions(f"show --store {store} abd") == ["abd"]
    assert completions(f"--store {tmp_path / 'none'} show a") == []
    assert completions(f"show --store {tmp_path / 'none'} a") == []


@pytest.mark.needs_posix_shell
def test_completion_in_a_process_offers_ids(store: Path) -> None:
    done = run_program(**asking(f"show --store {store} "))
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain,1\nplain,2\n", "")


@pytest.mark.needs_cheap_processes
def test_completion_script_of_each_shell_asks_the_program() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_ZOHO_KEYSTORE_COMPLETE" in run_program("", _ZOHO_KEYSTORE_COMPLETE=f"{shell}_source").stdout


def test_arguments_are_taken_as_they_are_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, click puts variables and file names into them there."""
    seen: list[object] = []
    monkeypatch.setattr(click.Group, "main", lambda *_, **options: seen.append(options["windows_expand_args"]))
    main()
    assert seen == [False]
