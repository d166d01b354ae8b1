"""The commands that messages print: each is pasted into a shell, and works on the store and keys that were given."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import failure_of, invoke, refused, words_of
from zoho_keystore import EncryptedFileStore, backup, rotate
from zoho_keystore import _platform as platform
from zoho_keystore._importers import filestore
from zoho_keystore._open import open_keystore
from zoho_keystore._operations.copying import copy
from zoho_keystore._operations.ring_keys import prune
from zoho_keystore._records import TokenRecord
from zoho_keystore._text import with_store
from zoho_keystore.errors import (
    CannotOpenError,
    KeystoreError,
    KeyUnavailableError,
    SignInNeededError,
    TokenNotFoundError,
    storage_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EXPIRED = TokenRecord(id="5", access_token="a", expires_in="1000")


def command_in(text: str) -> str:
    """Return the command that a message prints."""
    move = r"(?:(?:mv -n|rm) .* && |(?:Move|Remove)-Item .*; )?"
    match = re.search(rf"({move}zoho-keystore .*?)(?:; |\)|$)", " ".join(text.split("\n")).strip())
    assert match, text
    return match[1]


def paste(text: str, work: Path, code: int = 0) -> str:
    """Run the command that a message prints in a shell, and return its output."""
    if os.name == "nt":
        return paste_into_powershell(command_in(text), code)
    bin_ = work.parent / "bin"
    bin_.mkdir(exist_ok=True)
    script = bin_ / "zoho-keystore"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m zoho_keystore "$@"\n')
    script.chmod(0o700)
    done = subprocess.run(
        ["/bin/sh", "-c", command_in(text)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"},
    )
    assert done.returncode == code, (text, done.stdout, done.stderr)
    return done.stdout


def paste_into_powershell(command: str, code: int) -> str:
    """Run a command with the words that PowerShell passes; it does not exist under Wine, where processes are slow."""
    words = words_of(command)
    if words[:2] == ["Move-Item", "-LiteralPath"]:
        Path(words[2]).rename(words[3])
        assert words[4] == ";"
        del words[:5]
    assert words[0] == "zoho-keystore"
    return invoke(*words[1:], code=code).stdout


@pytest.fixture(params=[["--store", "my store"], ["--store", "my store", "--key", "file:it's"]], ids=["store", "key"])
def given(request: pytest.FixtureRequest, work: Path, store: Path) -> Any:
    """Give the options of another store than the default one, which no command may touch."""
    before = store.read_bytes()
    invoke(*request.param, "init")
    with closing(open_keystore("my store", key=request.param[3] if len(request.param) > 2 else None)) as keystore:
        keystore.save(EXPIRED)
    yield request.param
    assert store.read_bytes() == before
    assert work.exists()


def test_command_of_an_unknown_id_lists_the_ids(given: list[str], work: Path) -> None:
    for command in (["show", "9"], ["delete", "9", "--yes"]):
        assert paste(invoke(*given, *command, code=9).stderr, work).splitlines()[1].startswith("5 ")
        assert paste(invoke(*command, *given, code=9).stderr, work).splitlines()[1].startswith("5 ")


def test_commands_of_doctor_work_on_the_examined_store(given: list[str], work: Path) -> None:
    """An expired token, plain text beside the store, and a store that is missing."""
    plain = work / "old tokens.txt"
    plain.write_bytes(filestore.export([TokenRecord(id="7", refresh_token="r")]))
    fixes = [line for line in invoke(*given, "doctor", code=12).stdout.splitlines() if "→" in line]
    [delete] = [line for line in fixes if " delete " in line]
    [remove] = [line for line in fixes if "--remove-source" in line]
    assert platform.join(given) in remove
    paste(f"{delete} --yes", work)  # Without a terminal.
    paste(remove, work)
    assert not plain.exists()
    assert [line[:2] for line in invoke(*given, "list").stdout.splitlines()[1:]] == ["7 "]
    (work / "my store").unlink()
    shown = invoke(*given, "doctor", code=12).stdout
    paste(next(line for line in shown.splitlines() if " init" in line), work)
    assert invoke(*given, "list").stderr == f"There are no tokens in {work / 'my store'}.\n"


@pytest.mark.parametrize("command", ["list", "verify", "rotate", "backup copy", "key prune x"])
def test_command_of_a_missing_store_creates_it(command: str, given: list[str], work: Path) -> None:
    (work / "my store").unlink()
    shown = invoke(*given, *command.split(), code=6).stderr
    assert shown.startswith(f"zoho-keystore: {work / 'my store'}: there is no store. ")
    assert f"Created {work / 'my store'}" in paste(shown, work)


def test_command_of_a_file_of_filestore_imports_it(given: list[str], work: Path) -> None:
    """By the command line and by the class, which name another path for the store, and keep the file."""
    for number, suffix in enumerate(("txt", "db")):
        plain = work / f"sdk {number}.{suffix}"
        plain.write_bytes(filestore.export([TokenRecord(id="7", refresh_token="r")]))
        options = ["--store", str(plain), *given[2:]]
        shown = invoke(*options, "list", code=4).stderr
        assert "this is the plain-text file of the SDK's FileStore, not a keystore" in shown
        if number:
            error, shown = failure_of(
                lambda path=plain: EncryptedFileStore(path, key=given[3] if given[2:] else None),  # type: ignore[misc] # a default in a lambda
                CannotOpenError,
            )
            shown = error.advice
        assert "1 added" in paste(shown, work)
        assert plain.exists()
        assert "7 " in invoke("--store", work / f"sdk {number}.keystore", *given[2:], "list").stdout
        fixes = [line for line in invoke(*options, "doctor", code=12).stdout.splitlines() if "Give the store" in line]
        assert "1 unchanged" in paste(fixes[0], work)


def test_command_of_a_lost_key_moves_the_store_away(given: list[str], work: Path, ring: Path) -> None:
    """The same for every command, init included; no key and no store is made before."""
    lost = work / "it's" if given[2:] else ring
    key = lost.read_bytes()
    lost.unlink()
    for command in ("list", "init", "verify", "rotate", "key list", "import x", "doctor"):
        result = invoke(*given, *command.split(), code=12 if command == "doctor" else 10 if "x" in command else 3)
        if command != "import x":
            assert "the store is there, and its key is not: " in result.output
            assert "restore your copy of the key. " in result.output
        assert not lost.exists()
    fix = next(line for line in result.stdout.splitlines() if "my store.without-key" in line)
    paste(fix, work)
    assert invoke(*given, "list").stderr == f"There are no tokens in {work / 'my store'}.\n"
    lost.write_bytes(key)
    assert "5 " in invoke("--store", "my store.without-key", *given[2:], "list").stdout


def test_command_of_a_lost_key_that_init_does_not_make_leaves_the_store(work: Path, store: Path) -> None:
    """Init, behind the move, would fail and leave the user without a store."""
    shown = refused(3, "--key", "env:NOPE", "list")
    assert "the store is there, and its key is not: the environment variable NOPE is not set" in shown
    move = platform.move_command(store, Path(f"{store}.without-key"))
    assert f"make another one, move the store away, and sign in anew: {move}. Put one or more keys" in shown
    assert "&&" not in shown
    assert "Make one with: zoho-keystore --key env:NOPE key new --print" in shown
    assert len(paste(shown[shown.index("Make one with") :], work).strip()) == 44


@pytest.mark.needs_posix_shell
def test_command_of_an_empty_file_replaces_it(work: Path, store: Path) -> None:
    (work / "a b").touch(mode=0o600)
    shown = refused(4, "--store", "a b", "list")
    assert f"if it never was a store, create one: rm '{work}/a b' && zoho-keystore --store '{work}/a b' init" in shown
    assert f"Created {work}/a b" in paste(shown, work)
    assert store.exists()


def test_command_without_any_key_makes_ring_and_store(work: Path, ring: Path) -> None:
    shown = invoke("--store", "mine", "list", code=3).stderr
    assert not ring.exists()
    paste(shown, work)
    assert ring.exists()
    assert (work / "mine").exists()
    assert not (work.parent / "data").exists()


def test_command_of_an_export_makes_a_sealed_copy(given: list[str], work: Path) -> None:
    shown = invoke(*given, "export", "my copy", code=2).stderr
    paste(shown.splitlines()[-1], work)
    assert "intact" in invoke("--store", "my copy", *given[2:], "verify").stdout


def test_command_of_the_class_names_the_store_and_its_key(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key itself is not repeated, nor what may be one by mistake, nor the arguments of a program."""
    monkeypatch.setenv("KEY", Fernet.generate_key().decode())
    store = EncryptedFileStore("my store", key="env:KEY")

    def unknown(keystore: Any) -> str:
        error, shown = failure_of(lambda: keystore.delete("9"), TokenNotFoundError)
        assert error.advice in shown
        return error.advice

    assert paste(unknown(store._keystore), work) == ""
    named = f"List the ids with: zoho-keystore --store '{work / 'my store'}' "
    assert unknown(store._keystore) == f"{named}--key env:KEY list"
    key = os.environ["KEY"]
    assert unknown(open_keystore("my store", key=key.encode())) == f"{named}list"
    if os.name == "posix":
        assert unknown(open_keystore("my store", key="command:printenv KEY")) == f"{named}--key 'command:…' list"
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key)
    assert unknown(open_keystore()) == "List the ids with: zoho-keystore list"
    monkeypatch.delenv("ZOHO_KEYSTORE_KEY")
    error, _ = failure_of(lambda: open_keystore("no store", key=None), KeyUnavailableError)
    assert f"zoho-keystore --store '{work / 'no store'}' init; " in error.advice


def test_command_does_not_repeat_a_key_by_mistake() -> None:
    key = Fernet.generate_key().decode()
    for options in (["--key", key], ["--store", key], ["--key", f"env:{key}"], ["--key", f"file:{key}"]):
        for command in ("list", "doctor", "init", "export x"):
            result = invoke(*options, *command.split(), code=12 if command == "doctor" else 2)
            assert key not in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run: zoho-keystore list", "Run: zoho-keystore --store 'a b' --key env:K list"),
        ("zoho-keystore key new --print", "zoho-keystore --store 'a b' --key env:K key new --print"),
        ("zoho-keystore --store x list", "zoho-keystore --key env:K --store x list"),
        ("zoho-keystore --store 'x --key y' list", "zoho-keystore --key env:K --store 'x --key y' list"),
        ("zoho-keystore --key 'x y' list", "zoho-keystore --store 'a b' --key 'x y' list"),
        ("""zoho-keystore --store 'it'"'"'s' --key 'x y' list""",) * 2,
        ("keyring:zoho-keystore/crm", "keyring:zoho-keystore/crm"),
        ("pass show zoho-keystore", "pass show zoho-keystore"),
        ("see /opt/zoho-keystore list", "see /opt/zoho-keystore list"),
    ],
)
def test_with_store_names_the_store_in_commands_only(text: str, expected: str) -> None:
    assert with_store(text, "a b", "env:K") == expected
    assert with_store(text, None, None) == text


def test_an_error_names_the_store_that_was_named_last() -> None:
    """The command line repeats what was given to it, whatever the layers below have named."""
    error = KeystoreError("it failed", "Try: zoho-keystore list")
    error.name_store("a", None)
    error.name_store("b", "env:K")
    assert str(error) == "it failed. Try: zoho-keystore --store b --key env:K list"


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize(("number", "text"), [(37, "lock service"), (38, "local disk"), (95, "local disk")])
def test_storage_error_of_an_unsupported_call_has_advice_that_fits(number: int, text: str) -> None:
    """ENOLCK, ENOSYS and EOPNOTSUPP."""
    assert text in storage_error(OSError(number, "No"), "it failed", None).advice


@pytest.mark.parametrize("place", ["my store", "sqlite:///my store"])
@pytest.mark.parametrize(
    "use",
    [
        rotate,
        lambda place, key: prune(place, [], key=key),
        lambda place, key: backup(place, "backup", key=key),
        lambda place, key: copy(place, "copy", key=key),
        lambda place, key: open_keystore(place, key=key, create=False).close(),
    ],
    ids=["rotate", "prune", "backup", "copy", "open"],
)
def test_command_in_an_error_of_the_api_makes_the_store_that_was_meant(
    use: Callable[..., object], place: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in another directory, where a log is read."""
    key = f"file:{work}/it's"
    invoke("--store", "other", "--key", key, "init")
    with pytest.raises(KeystoreError) as caught:
        use(place, key=key)
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(work.parent)
        paste(str(caught.value), work)
    use(place, key=key)


@pytest.mark.parametrize("place", ["my store", "sqlite:///my store"])
@pytest.mark.parametrize(
    ("record", "session_timeout"),
    [(EXPIRED, None), (replace(EXPIRED, access_token=None, client_id="c", refresh_token="r"), 0.0)],
    ids=["no refresh token", "session"],
)
def test_command_in_an_error_of_an_open_store_signs_in_there(
    record: TokenRecord, session_timeout: float | None, place: str, work: Path
) -> None:
    key = f"file:{work}/it's"
    invoke("--store", place, "--key", key, "init")
    with closing(open_keystore(place, key=key, session_timeout=session_timeout)) as keystore:
        keystore.save(record)
        with pytest.raises(SignInNeededError) as caught:
            keystore.access_token("5")
    assert words_of(command_in(str(caught.value)))[1:] == ["--store", keystore.name, "--key", key, "login", "--id", "5"]


def test_command_in_the_log_of_a_program_makes_the_store_anew(work: Path) -> None:
    """The file was emptied while the program ran."""
    key = f"file:{work}/it's"
    invoke("--store", "my store", "--key", key, "init")
    with closing(open_keystore("my store", key=key)) as keystore:
        (work / "my store").write_bytes(b"")
        with pytest.raises(CannotOpenError) as caught:
            keystore.records()
    assert str(work / "my store") in words_of(command_in(str(caught.value)).rpartition("zoho-keystore")[2])
