"""What the commands do, and what they do when something is wrong."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from contextlib import closing, redirect_stdout
from typing import TYPE_CHECKING, Any

import click
import keyring
import pytest
from cryptography.fernet import Fernet
from keyrings.alt.file import PlaintextKeyring

from support import Terminal, invoke, program, refused, used_wrongly
from zoho_keystore import EncryptedFileStore, errors
from zoho_keystore._cli import EXIT_CODES, Failure, main
from zoho_keystore._cli.common import as_json, expiry_in_words, lease_in_words, masked, printable
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._keys.sources import key_source
from zoho_keystore._open import open_keystore
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def damage(path: Path) -> bytes:
    """Change a character of a store for another one of those that a token has, and return what is there now."""
    content = bytearray(path.read_bytes())
    content[100] = ord("A") if content[100] != ord("A") else ord("B")
    path.write_bytes(content)
    return bytes(content)


def ids() -> list[str]:
    """Return the ids of the tokens in the user's store."""
    with closing(open_keystore(create=False)) as keystore:
        return [record.id for record in keystore.records()]


def fingerprints(ring: Path) -> list[str]:
    """Return the names of the keys in a ring."""
    return [fingerprint(key) for key in key_source(f"file:{ring}").load()]


def files(directory: Path) -> dict[Path, bytes]:
    """Return all files of a user, but for empty ones: locks are none."""
    found = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if content}


# --- When something is wrong ----------------------------------------------------------------------------------------

#: Each command with arguments that would work; what is written stands in the user's folder.
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
    "rotate --keep-old --quiet",
    "key prune --yes",
    "verify",
    "verify --quiet",
    "backup copy",
    "restore old --yes",
    "key list",
    "key new",
    "init",
)


@pytest.fixture
def ready(store: Path, work: Path, ring: Path) -> Path:
    """Give a store with all that the commands need: another key in the ring, a source, and a backup."""
    invoke("export", "source.csv", "--plaintext")
    invoke("backup", "old")
    with ring.open("ab") as file:
        file.write(Fernet.generate_key() + b"\n")
    assert work.exists()
    return store


@pytest.mark.parametrize(
    ("trouble", "code", "still_work"),
    [
        # What cures it, and what does without the store.
        ("damaged", 4, {"restore old --yes", "key list", "key new"}),
        ("missing", 6, {"restore old --yes", "key list", "key new", "init"}),
        ("no key", 3, set()),
        ("malformed key", 3, set()),
        ("wrong key", 4, {"key list", "key new"}),
    ],
)
def test_a_store_that_does_not_open_is_one_line_and_stays_as_it_is(
    trouble: str, code: int, still_work: set[str], ready: Path, ring: Path
) -> None:
    """With each command; the exit code is that of the family."""
    match trouble:
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


def test_each_command_runs_as_a_program(ready: Path) -> None:
    """And each refuses a damaged store without a traceback."""
    for command in ("show 1", "verify", "backup copy", "rotate --keep-old", "key list", "key new", "delete 2 --yes"):
        done = program(*command.split())
        assert (done.returncode, done.stderr) == (0, ""), command
        assert done.stdout
    damage(ready)
    done = program("verify", "--quiet")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert done.stderr.startswith(f"zoho-keystore: {ready}: the key is wrong or the file is damaged")
    done = program("restore", "old", "--yes")
    assert done.returncode == 0
    done = program("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    done = program("init")
    assert (done.returncode, done.stderr) == (0, "")
    done = program("import", "source.csv", "--remove-source")
    assert (done.returncode, done.stderr) == (0, "")
    done = program("export", "plain", "--plaintext")
    assert (done.returncode, done.stderr) == (0, "")


def test_each_family_of_errors_has_an_exit_code() -> None:
    """Of its own, but for those that no command can come to."""
    families = set(errors.KeystoreError.__subclasses__())
    assert families - EXIT_CODES.keys() == {errors.StoreClosedError, errors.SDKNotInstalledError}
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    for family, code in EXIT_CODES.items():
        assert Failure(family("it failed")).exit_code == code
        for kind in family.__subclasses__():
            assert Failure(kind("it failed")).exit_code == code
    assert Failure(errors.StoreClosedError("it failed")).exit_code == 1
    assert 0 not in EXIT_CODES.values()
    assert not {1, 11, 12} & {*EXIT_CODES.values()}


@pytest.mark.usefixtures("store")
def test_errors_that_depend_on_others_have_their_codes_too(
    store: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock, the document, the token, a rotation that is left half-way."""
    assert "no token with the id '9'" in refused(9, "show", "9")
    with closing(open_keystore()) as other:
        storage: Any = other._storage
        monkeypatch.setattr("zoho_keystore._cli.common.open_keystore", lambda *_a, **_k: open_keystore(lock_timeout=0))
        with storage.transaction():
            assert "the store's lock was not to be had" in refused(8, "delete", "1", "--yes")
    monkeypatch.undo()
    monkeypatch.chdir(work)
    monkeypatch.setenv("KEY", Fernet.generate_key().decode())
    (work / "strange").write_bytes(Fernet(os.environ["KEY"]).encrypt(b"{}"))
    os.chmod(work / "strange", 0o600)
    assert "strange" in refused(5, "--store", "strange", "--key", "env:KEY", "verify")
    assert store.exists()


def test_wrong_uses_are_exit_code_2(store: Path) -> None:
    """And nothing is changed, nor is a key repeated that was put in the wrong place."""
    before = store.read_bytes()
    for arguments in (["shw"], ["show"], ["--stor", "x", "list"], ["delete"], ["delete", "1", "--all"], ["backup"]):
        assert "Usage: zoho-keystore" in used_wrongly(*arguments)
    assert "no known kind" in refused(2, "--key", "nonsense", "list")
    assert "path" in refused(2, "--store", "", "list")
    key = Fernet.generate_key().decode()
    assert key not in refused(2, "--key", key, "list")
    assert key not in refused(2, "--store", key, "list")
    assert store.read_bytes() == before


# --- init -----------------------------------------------------------------------------------------------------------


def test_init_makes_a_key_and_a_store_once(work: Path, ring: Path) -> None:
    """After it a store without arguments works; a second one changes nothing."""
    store = work.parent / "data" / "zoho-keystore" / "tokens.keystore"
    done = invoke("init")
    [name] = fingerprints(ring)
    assert done.stdout.splitlines() == [
        f"Made file:{ring} (key {name})",
        f"Made {store}",
        "Keep a copy of the key where you keep other secrets: without it nobody can open the store.",
        "EncryptedFileStore() finds both.",
    ]
    assert EncryptedFileStore().get_tokens() == []
    assert (ring.stat().st_mode & 0o777, store.stat().st_mode & 0o777) == (0o600, 0o600)
    before = files(work.parent)
    assert invoke("init").stdout.splitlines() == [
        f"There is file:{ring} (key {name})",
        f"There is {store}",
        "EncryptedFileStore() finds both.",
    ]
    assert files(work.parent) == before


def test_init_makes_a_ring_and_a_store_elsewhere(work: Path) -> None:
    """And prints what to write to open them."""
    shown = invoke("--store", "mine/store", "init", "--keyring", "keys/ring").stdout
    code = shown.splitlines()[-1].removeprefix("Open it with ").removesuffix(".")
    assert code == f"EncryptedFileStore({str(work / 'mine' / 'store')!r}, key='file:{work}/keys/ring')"
    opened = eval(code)  # noqa: S307 - it is meant to be copied
    assert opened.get_tokens() == []
    assert invoke("--store", "mine/store", "--key", "file:keys/ring", "verify").exit_code == 0
    assert "both say where the keys" in used_wrongly("--key", "file:a", "init", "--keyring", "b")


def test_init_names_what_opens_the_store(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with its arguments; and no key where the default finds it."""
    monkeypatch.setenv("KEY", Fernet.generate_key().decode())
    shown = invoke("--store", "a", "--key", "command:printenv KEY", "init").stdout
    assert (
        shown.splitlines()[-1] == f"Open it with EncryptedFileStore({str(work / 'a')!r}, key='command:printenv KEY')."
    )
    assert "There is command:printenv …" in shown
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", os.environ["KEY"])
    shown = invoke("--store", "b", "init").stdout
    assert shown.splitlines()[-1] == f"Open it with EncryptedFileStore({str(work / 'b')!r})."


@pytest.fixture
def backend(work: Path) -> Iterator[None]:
    """Give a real backend of the system's keyring that needs no desktop."""
    was = keyring.get_keyring()
    backend = PlaintextKeyring()
    backend.file_path = str(work / "system.cfg")
    keyring.set_keyring(backend)
    yield
    keyring.set_keyring(was)


@pytest.mark.usefixtures("backend")
def test_init_puts_a_key_into_the_systems_keyring() -> None:
    """And finds it there the second time."""
    spec = "keyring:zoho-keystore/crm"
    shown = invoke("--key", spec, "init").stdout
    assert shown.startswith(f"Made {spec} (key ")
    key = keyring.get_password("zoho-keystore", "crm")
    assert invoke("--key", spec, "init").stdout.startswith(f"There is {spec} (key ")
    assert invoke("--key", spec, "--store", "another", "init").stdout.startswith(f"There is {spec} (key ")
    assert keyring.get_password("zoho-keystore", "crm") == key
    assert invoke("--key", spec, "verify").exit_code == 0


# --- delete ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_delete_asks_on_a_terminal() -> None:
    """It names what would go."""
    terminal = Terminal("delete", "1")
    terminal.answers("Delete 1 token? [y/N]", "n\n")
    shown = terminal.ends(11)
    assert "1  ann@example.com:77\n" in shown
    assert ids() == ["1", "2"]
    terminal = Terminal("delete", "--all")
    terminal.answers("Delete 2 tokens? [y/N]", "y\n")
    assert terminal.ends().endswith("Deleted 2 tokens.\n")
    assert ids() == []


def test_delete_takes_all_that_are_named_or_none(store: Path) -> None:
    """Without a terminal it has to be told that it is meant."""
    before = store.read_bytes()
    assert "Give --yes if you mean it" in used_wrongly("delete", "1")
    assert "no token with the id '9'; nothing was deleted" in refused(9, "delete", "1", "9", "--yes")
    assert store.read_bytes() == before
    assert invoke("delete", "2", "2", "1", "--yes").stdout == "Deleted 2 tokens.\n"
    assert ids() == []
    assert invoke("delete", "--all", "--yes").stderr == "There are no tokens.\n"


# --- Backups --------------------------------------------------------------------------------------------------------


def test_a_store_comes_back_from_a_backup(store: Path, work: Path) -> None:
    """What changes is told before; what was there is kept."""
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
    assert "Give --yes if you mean it" in invoke("restore", copy, code=2).stderr
    assert store.read_bytes() == before
    done = invoke("restore", copy, "--yes")
    assert done.stderr.splitlines() == [
        f"{copy} opens, and holds 2 tokens.",
        "1 token would be lost: 3",
        "1 token would be changed: 1",
        "1 token would be back again: 2",
    ]
    [kept] = store.parent.glob("tokens.keystore.replaced-*")
    assert done.stdout == f"Restored {store}. What was there is kept in {kept}\n"
    assert kept.read_bytes() == before
    assert store.read_bytes() == copy.read_bytes()
    done = invoke("restore", copy, "--yes")
    assert done.stderr.splitlines()[1:] == ["No token would be another one."]


def test_a_backup_comes_back_over_a_damaged_store_and_over_none(store: Path, work: Path) -> None:
    """Into a folder it goes under a name of its own."""
    invoke("backup", work)
    [copy] = work.iterdir()
    assert re.fullmatch(r"tokens\.keystore\.\d{8}T\d{6}Z", copy.name)
    damaged = damage(store)
    terminal = Terminal("restore", copy)
    terminal.answers("Put it in the store's place? [y/N]", "y\n")
    shown = terminal.ends()
    assert "The store does not open now: the key is wrong or the file is damaged" in shown
    [kept] = store.parent.glob("tokens.keystore.replaced-*")
    assert kept.read_bytes() == damaged
    store.unlink()
    done = invoke("restore", copy, "--yes")
    assert done.stdout == f"Restored {store}.\n"
    assert ids() == ["1", "2"]


# --- Keys -----------------------------------------------------------------------------------------------------------


def test_a_rotation_and_its_keys(store: Path, ring: Path) -> None:
    """New ones are made and listed, and what nothing needs is dropped when that is meant."""
    [old] = fingerprints(ring)
    assert invoke("rotate", "--keep-old").stdout == f"{store} is sealed with the key {fingerprints(ring)[0]}.\n"
    new = fingerprints(ring)[0]
    lines = invoke("key", "list").stdout.splitlines()
    assert [re.split(" {2,}", line.strip()) for line in lines] == [
        ["KEY", "SEALS"],
        [new, str(store)],
        [old, "nothing found"],
    ]
    assert "Give --yes if you mean it" in invoke("key", "prune", code=2).stderr
    assert fingerprints(ring) == [new, old]
    done = invoke("key", "prune", "--yes")
    assert (done.stdout, done.stderr) == (f"Dropped {old}\n", f"Nothing that was found needs: {old}\n")
    assert fingerprints(ring) == [new]
    assert invoke("key", "prune", "--yes").stdout == "Every key is needed.\n"
    done = invoke("key", "new")
    newest = fingerprints(ring)[0]
    assert done.stdout == f"Put the key {newest} on top of file:{ring}\n"
    assert invoke("rotate", "--quiet").output == ""
    assert fingerprints(ring) == [newest]
    assert ids() == ["1", "2"]


def test_a_key_is_printed_and_put_nowhere(work: Path) -> None:
    """It needs no store."""
    key = invoke("key", "new", "--print").stdout
    assert key.endswith("\n")
    Fernet(key.strip())
    assert files(work.parent) == {}


def test_a_rotation_where_the_keys_are_handed_out(store: Path, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new key comes by a spec of its own; a ring that is not ours is not changed."""
    [old] = key_source(f"file:{ring}").load()
    monkeypatch.setenv("OLD", old.decode())
    monkeypatch.setenv("NEW", Fernet.generate_key().decode())
    assert "hand NEW,OLD" in refused(2, "--key", "env:OLD", "rotate")
    assert "cannot be changed from here" in refused(2, "--key", "env:OLD", "key", "new")
    shown = invoke("--key", "env:OLD", "rotate", "--new-key", "env:NEW").stdout
    assert "alone, where you handed out env:OLD." in shown
    assert invoke("--key", "env:NEW", "verify", "--quiet").output == ""
    assert store.exists()


def test_verify_says_what_it_saw(store: Path, ring: Path) -> None:
    """In one line."""
    shown = invoke("verify").stdout
    assert shown == f"{store}: whole, with 2 tokens; sealed with the key {fingerprints(ring)[0]}, write 2\n"


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_has_nothing_to_say_of_a_good_store(store: Path, ring: Path) -> None:
    """But where the keys come from, and that it opens."""
    assert invoke("doctor").stdout.splitlines() == [
        f"✓ the store's keys come from the user's config folder: file:{ring} (1 key)",
        f"✓ {store}: opens, and holds 2 tokens",
        "All is well.",
    ]


def test_doctor_tells_the_cure_and_exits_with_12(store: Path, work: Path) -> None:
    """For people, and as JSON."""
    plain = work / "sdk_tokens.txt"
    plain.write_bytes(b"")
    what = f"{plain}: tokens in plain text, of the SDK's own store or sample"
    fix = f"zoho-keystore import --remove-source {plain}"
    assert invoke("doctor", code=12).stdout.splitlines()[-3:] == [f"✗ {what}", f"  → {fix}", "1 to cure."]
    found = click.unstyle(invoke("doctor", "--json", code=12).stdout)
    shape = json.loads(found)
    assert shape[-1] == {"trouble": True, "what": what, "cure": fix}
    assert shape[0]["trouble"] is False
    assert shape[0]["cure"] is None
    assert store.exists()


# --- Completion -----------------------------------------------------------------------------------------------------


def completed(words: str) -> list[str]:
    """Return what the shell would offer for the last of some words."""
    done = subprocess.run(
        [sys.executable, "-c", "from zoho_keystore._cli import main; main(prog_name='zoho-keystore')"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={
            **os.environ,
            "_ZOHO_KEYSTORE_COMPLETE": "bash_complete",
            "COMP_WORDS": f"zoho-keystore {words}",
            "COMP_CWORD": str(len(words.split(" "))),
        },
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_commands_and_ids(store: Path, tmp_path: Path) -> None:
    """Of the store that is named before; nothing when it does not open."""
    with closing(open_keystore()) as keystore:
        for id in ("abc", "abd", "x\ny"):
            keystore.save(TokenRecord(id=id, access_token="a"))
    assert completed("re") == ["restore"]
    assert completed("show a") == ["abc", "abd"]
    assert completed("delete x") == []
    assert completed(f"--store {store} show abd") == ["abd"]
    assert completed(f"--store {tmp_path / 'none'} show a") == []
    for shell in ("bash", "zsh", "fish"):
        source = program("", _ZOHO_KEYSTORE_COMPLETE=f"{shell}_source")
        assert "_ZOHO_KEYSTORE_COMPLETE" in source.stdout


def test_ids_are_completed_in_this_process_too(store: Path) -> None:
    """As above."""
    context = main.make_context("zoho-keystore", ["list"])
    command = main.get_command(context, "show")
    assert command is not None
    [parameter] = [one for one in command.params if one.name == "id"]
    assert [item.value for item in parameter.shell_complete(click.Context(command, parent=context), "")] == ["1", "2"]
    damage(store)
    assert parameter.shell_complete(click.Context(command, parent=context), "") == []


# --- Words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_s", "words"),
    [
        (42 * 60, "in 42 min"),
        (30, "in 30 s"),
        (59.6, "in 1 min"),
        (0, "expired 0 s ago"),
        (-3 * 3600, "expired 3 h ago"),
        (47 * 3600, "in 47 h"),
        (-48 * 3600, "expired 2 days ago"),
        (10**10, "in 115741 days"),
    ],
)
def test_an_expiry_is_said_as_people_say_it(left_s: float, words: str) -> None:
    """From seconds to days."""
    now = 1_700_000_000_000
    record = TokenRecord(access_token="a", expires_in=str(now + round(left_s * 1000)))
    assert expiry_in_words(record, now) == words


def test_an_expiry_may_be_unknown_or_beyond_all_calendars() -> None:
    """Or there is nothing to expire."""
    assert expiry_in_words(TokenRecord(access_token="a"), 0) == "unknown"
    assert expiry_in_words(TokenRecord(refresh_token="a"), 0) == "-"
    assert as_json(TokenRecord(id="1", expires_in="9" * 18))["expires_at"] is None


def test_a_refresh_under_way_is_shown(store: Path) -> None:
    """Who does it, for as long as that counts."""
    owner = Owner.current()
    lease = Lease(owner, time.time_ns() // 1_000_000 + 60_000)
    with closing(open_keystore()) as keystore:
        storage: Any = keystore._storage
        with storage.transaction() as transaction:
            transaction.put(TokenRecord(id="3", refresh_token="r", refresh=lease.as_fields()))
    assert f"process {os.getpid()} on {owner.host}" in invoke("list").stdout.splitlines()[-1]
    assert f"process {os.getpid()} on {owner.host}" in invoke("show", "3").stdout
    record = TokenRecord(id="3", refresh_token="r", refresh=lease.as_fields())
    assert lease_in_words(record, lease.deadline_ms) == "-"
    shape = as_json(record)["refresh"]
    assert (shape["host"], shape["pid"]) == (owner.host, owner.pid)
    assert store.exists()


def test_of_a_secret_at_most_the_fourth_part_is_shown() -> None:
    """And no more than eight characters."""
    assert [masked(secret) for secret in (None, "", "abc", "abcdefgh", "x" * 100)] == [
        "-",
        "-",
        "… (3)",
        "ab… (8)",
        "xxxxxxxx… (100)",
    ]
    assert printable("a\tb\x1bc\u200bd é") == "a\\tb\\x1bc\\u200bd é"


def test_it_prints_where_the_output_is_no_file_either() -> None:
    """As when a test of another program calls it."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        main(["key", "new", "--print"], standalone_mode=False)
    Fernet(shown.getvalue().strip())


def test_the_version_is_shown() -> None:
    """And the help, also in short; again and again in one process, whatever was loaded meanwhile."""
    assert re.fullmatch(r"zoho-keystore \d\S+\n", invoke("--version").stdout)
    assert invoke("-h").stdout == invoke("--help").stdout
