"""What the README shows is run here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter

import zoho_keystore
from fake_zoho import FakeZoho
from zoho_keystore import EncryptedFileStore, KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_key(store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each example where a user would: in a folder, with a key in the environment."""
    monkeypatch.chdir(store_path.parent)
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a stand-in that serves."""
    with FakeZoho() as fake_zoho:
        yield fake_zoho


def run(example: str, **names: Any) -> dict[str, Any]:
    """Run an example, and return the names that it made."""
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - our own README
    return names


def example_with(text: str) -> str:
    """Return the one example that holds a text."""
    [example] = [str(example) for example in EXAMPLES if text in example]
    return example


def test_the_first_example_signs_in_and_makes_a_request(zoho: FakeZoho) -> None:
    """With Zoho's address and a grant token put in."""
    example = example_with("Initializer.initialize(")
    example = example.replace("USDataCenter.PRODUCTION()", "ENVIRONMENT").replace("1000.…", zoho.new_grant())
    names = run(example, ENVIRONMENT=DataCenter.Environment(zoho.url, zoho.token_url, zoho.url))
    assert names["response"].get_status_code() == 200
    assert len(EncryptedFileStore("tokens.keystore").get_tokens()) == 1


def test_the_store_in_memory_is_made() -> None:
    """And is empty."""
    assert run(example_with("InMemoryStore()"))["store"].get_tokens() == []


def test_errors_are_caught_as_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a key, and with another one."""
    example = example_with("except CannotOpenError")
    run(example)
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("ZOHO_KEYSTORE_KEY")
    run(example)
    assert capsys.readouterr().out.startswith("no key: ")
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", Fernet.generate_key().decode())
    run(example)
    assert capsys.readouterr().out.startswith("wrong key")


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_three_lines_open_the_file(key: bytes) -> None:
    """Without this package."""
    EncryptedFileStore("tokens.keystore")
    document = run(example_with("decrypt(sealed)"), key=key)["document"]
    assert document.startswith(b'{"format":"zoho-keystore","version":1,')


def test_every_error_is_in_the_table() -> None:
    """And every error of the table is there."""
    errors = {name for name in zoho_keystore.__all__ if name.endswith("Error")} - {"KeystoreError"}
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    assert errors <= set(re.findall(r"`(\w+Error)`", "\n".join(rows)))


def test_no_example_is_left_out() -> None:
    """Each Python block of the README is run above."""
    assert len(EXAMPLES) == 4


def test_the_commands_that_print_keys_are_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are taken as they stand; none is found here, so that nobody's password manager is asked."""
    monkeypatch.setenv("PATH", "")
    [examples] = re.findall(r"```text\n(command:.*?)```", README, re.DOTALL)
    assert len(examples.splitlines()) == 3
    for spec in examples.splitlines():
        program = spec.removeprefix("command:").split()[0]
        with pytest.raises(KeyUnavailableError, match=f"command:{program} … cannot be started"):
            EncryptedFileStore("tokens.keystore", key=spec)
