"""What the README shows is run here."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter

import zoho_keystore
from fake_zoho import FakeZoho
from zoho_keystore import EncryptedFileStore, KeyUnavailableError, TokenRecord, open_keystore
from zoho_keystore._leases import LEASE_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIGNING_IN = (ROOT / "docs" / "signing-in.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _in_a_directory_with_a_key(store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each example where a user would: in a directory, with a key in the environment."""
    monkeypatch.chdir(store_path.parent)
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a running fake server."""
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


def test_readme_first_example_signs_in_and_requests(zoho: FakeZoho) -> None:
    """With the fake server's address and a grant token put in."""
    example = example_with("Initializer.initialize(")
    example = example.replace("USDataCenter.PRODUCTION()", "ENVIRONMENT").replace("1000.…", zoho.new_grant())
    names = run(example, ENVIRONMENT=DataCenter.Environment(zoho.url, zoho.token_url, zoho.url))
    assert names["response"].get_status_code() == 200
    assert len(EncryptedFileStore().get_tokens()) == 1


def test_signing_in_example_requests_without_the_sdk(zoho: FakeZoho, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fake server's address and name put in."""
    [example] = re.findall(r"```python\n(.*?)```", SIGNING_IN, re.DOTALL)
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", "tokens.keystore")
    client = zoho.new_client()
    given = TokenRecord(
        client_id=client.id,
        client_secret=client.secrets["us"],
        refresh_token=zoho.new_refresh_token(client=client),
        accounts_url=zoho.url,
    )
    with closing(open_keystore()) as keystore:
        keystore.save(given)
    example = example.replace("https://www.zohoapis.eu", zoho.url).replace(
        'auth("1")', 'auth("1", hosts=["127.0.0.1"])'
    )
    names = run(example)
    assert names["response"].json()["org"]
    assert (names["access_token"], zoho.count("org")) == (zoho.issued[-1], 2)
    assert zoho.count("refresh") == 1


def test_readme_memory_store_is_empty() -> None:
    assert run(example_with("InMemoryStore()"))["store"].get_tokens() == []


def test_readme_errors_are_caught_as_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_readme_three_lines_open_the_file(key: bytes) -> None:
    EncryptedFileStore("tokens.keystore")
    document = run(example_with("decrypt(sealed)"), key=key)["document"]
    assert document.startswith(b'{"format":"zoho-keystore","version":1,')


def test_readme_table_has_every_error() -> None:
    errors = {name for name in zoho_keystore.__all__ if name.endswith("Error")} - {"KeystoreError"}
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    assert errors <= set(re.findall(r"`(\w+Error)`", "\n".join(rows)))


def test_readme_has_no_other_python_example() -> None:
    assert len(EXAMPLES) == 4


def test_readme_key_commands_are_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are accepted as they are; with an empty PATH none is found, so that no real password manager is asked."""
    monkeypatch.setenv("PATH", "")
    [examples] = re.findall(r"```text\n(command:.*?)```", README, re.DOTALL)
    assert len(examples.splitlines()) == 3
    for spec in examples.splitlines():
        program = spec.removeprefix("command:").split()[0]
        with pytest.raises(KeyUnavailableError, match=f"command:{program} … cannot be started"):
            EncryptedFileStore("tokens.keystore", key=spec)


def test_documents_say_how_long_a_lease_lasts() -> None:
    assert f"if it hangs or fails, after {LEASE_MS / 1000:g} s" in README.replace("\n", " ")
    assert f"A lease lasts {LEASE_MS / 1000:g} s" in ARCHITECTURE


def test_architecture_names_every_module() -> None:
    """So that the module map does not fall behind the package."""
    section = ARCHITECTURE.partition("\n## Modules\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:_\w+/)?(\w+)/?`", section))
    package = ROOT / "zoho_keystore"
    modules = {path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")}
    # Of packages with one module a command or a source, the map names the package.
    one_by_one = {parts for parts in modules if parts[:-1] in {("_cli",), ("_keys", "sources"), ("_pyinstaller",)}}
    assert {parts[-1] for parts in modules - one_by_one if not parts[-1].startswith("__")} - named == {"_version"}
