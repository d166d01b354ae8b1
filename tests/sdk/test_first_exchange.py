"""The first run: many processes with the same grant or refresh token, and nothing stored; the real SDK.

One of them exchanges it, and the others wait for its record. Each case is also run with `refresh_wait=0`, where it has
to come out otherwise.
"""

from __future__ import annotations

import importlib.metadata
import logging
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException

from fake_zoho import FakeZoho
from faults.refreshes import OURS, WITHOUT_LEASES, Crew, Outcome, Setting
from zoho_keystore import EncryptedFileStore, InMemoryStore, TokenNotFoundError, _sdk
from zoho_keystore._open import open_keystore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT = {"client_id": "client", "client_secret": "any"}
SDK = next(
    number
    for number in (5, 6, 7, 8)
    for distribution in importlib.metadata.distributions()
    if distribution.name.lower().replace("-", "_") == f"zohocrmsdk{number}_0"
)


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    with FakeZoho(delay_s=0.2) as fake_zoho:
        yield fake_zoho


def credentials(zoho: FakeZoho, kind: str) -> dict[str, str]:
    """Return what the first run is given."""
    return {
        **CLIENT,
        **({"grant_token": zoho.new_grant()} if kind == "grant" else {}),
        **({"refresh_token": zoho.new_refresh_token()} if kind == "refresh" else {}),
    }


def first_run(zoho: FakeZoho, directory: Path, token: dict[str, str], **options: Any) -> list[Outcome]:
    """Let processes or threads sign in at the same moment, and return what came of it."""
    threads = options.pop("threads", 0)
    setting = Setting(options.pop("kind", OURS), directory / "t.keystore", Fernet.generate_key(), zoho.url, **options)
    setting = Setting(**{**vars(setting), "first_token": token})
    open_keystore(setting.path, key=setting.key)
    with Crew(setting, 1 if threads else 8, threads=threads) as crew:
        outcomes = crew.request()
    records = open_keystore(setting.path, key=setting.key).records()
    if setting.kind == OURS and not [outcome for outcome in outcomes if outcome.error]:
        assert [record.id for record in records] == [token.get("id", "1")]
        assert {outcome.access_token for outcome in outcomes} == {records[0].access_token}
    return outcomes


def failures(outcomes: list[Outcome]) -> list[str]:
    return [outcome.error for outcome in outcomes if outcome.error]


@pytest.mark.needs_fork
@pytest.mark.parametrize("threads", [0, 8], ids=["processes", "threads"])
@pytest.mark.parametrize("kind", ["grant", "refresh"])
def test_first_run_of_eight_makes_one_exchange(zoho: FakeZoho, tmp_path: Path, kind: str, threads: int) -> None:
    outcomes = first_run(zoho, tmp_path, credentials(zoho, kind), threads=threads)
    assert failures(outcomes) == []
    assert zoho.count(kind) == 1
    assert zoho.count("grant") + zoho.count("refresh") == 1
    assert max(outcome.lasted_s for outcome in outcomes) < 5


@pytest.mark.mutants
@pytest.mark.needs_fork
def test_first_run_of_eight_with_leases_off_loses_the_grant(zoho: FakeZoho, tmp_path: Path) -> None:
    outcomes = first_run(zoho, tmp_path, credentials(zoho, "grant"), kind=WITHOUT_LEASES)
    assert zoho.count("grant") > 1
    assert any("invalid_code" in error for error in failures(outcomes))


@pytest.mark.mutants
@pytest.mark.needs_fork
def test_first_run_of_eight_with_leases_off_refreshes_often(zoho: FakeZoho, tmp_path: Path) -> None:
    first_run(zoho, tmp_path, credentials(zoho, "refresh"), kind=WITHOUT_LEASES)
    assert zoho.count("refresh") > 1


@pytest.mark.needs_fork
def test_second_run_makes_no_exchange(zoho: FakeZoho, tmp_path: Path) -> None:
    """The same script with the same grant finds its record."""
    setting = Setting(OURS, tmp_path / "t", Fernet.generate_key(), zoho.url, first_token=credentials(zoho, "grant"))
    for _ in range(2):
        with Crew(setting, 2) as crew:
            assert failures(crew.request()) == []
    assert zoho.count("grant") == 1
    assert zoho.count("refresh") == 0


@pytest.mark.needs_fork
def test_first_run_after_a_failed_exchange_succeeds(zoho: FakeZoho, tmp_path: Path) -> None:
    """Zoho's error does not use the grant up; one of those that waited takes over."""
    zoho.fail_next(1)
    outcomes = first_run(zoho, tmp_path, credentials(zoho, "grant"), refresh_wait=3.0)
    assert len(failures(outcomes)) == 1
    assert zoho.count("grant") == 2
    assert max(outcome.lasted_s for outcome in outcomes) < 3 + 2


@pytest.mark.needs_fork
def test_first_run_does_not_spend_the_grant_where_nothing_can_be_saved(zoho: FakeZoho, tmp_path: Path) -> None:
    """The SDK swallows the error of a save: the program would run on, with a refresh token that is lost."""
    setting = Setting(OURS, tmp_path / "t", Fernet.generate_key(), zoho.url, first_token=credentials(zoho, "grant"))
    open_keystore(setting.path, key=setting.key)
    lock = tmp_path / ".t.lock"
    with Crew(setting, 1) as crew:
        lock.unlink()
        lock.mkdir()
        [error] = failures(crew.request())
        assert "looking up a token failed" in error
        assert zoho.count("grant") == 0
        lock.rmdir()
        assert failures(crew.request()) == []
    assert zoho.count("grant") == 1


@pytest.mark.needs_fork
def test_first_run_with_a_used_grant_stalls_once(zoho: FakeZoho, tmp_path: Path) -> None:
    token = {**CLIENT, "grant_token": "used"}
    setting = Setting(OURS, tmp_path / "t.keystore", Fernet.generate_key(), zoho.url, 4.0, token)
    with Crew(setting, 4) as crew:
        stalled, later = crew.request(), crew.request()
    assert len(failures(stalled)) == len(failures(later)) == 4
    assert max(outcome.lasted_s for outcome in stalled) < 4 + 2
    assert max(outcome.lasted_s for outcome in later) < 1.9


@pytest.mark.needs_fork
def test_first_run_with_a_chosen_id_is_not_leased(zoho: FakeZoho, tmp_path: Path) -> None:
    """What cannot be had: the SDK only asks for the id, and the store cannot tell a sign-in from a look-up."""
    outcomes = first_run(zoho, tmp_path, {**credentials(zoho, "grant"), "id": "production"})
    if SDK < 8:
        assert len(failures(outcomes)) == 8
        assert all("there is no token 'production' in this store" in error for error in failures(outcomes))
        assert zoho.count("grant") == 0
    else:
        assert len(failures(outcomes)) < 8
        assert zoho.count("grant") > 1


class TestUnknownId:
    """What the SDK makes of an id that no record has."""

    @pytest.fixture(params=["file", "memory"])
    def store(self, request: pytest.FixtureRequest, store_path: Path, key: bytes) -> Any:
        return EncryptedFileStore(store_path, key=key) if request.param == "file" else InMemoryStore()

    def test_find_token_of_unknown_id_alone_raises(self, store: Any, store_path: Path) -> None:
        with pytest.raises(SDKException) as caught:
            store.find_token(OAuthToken(id="1"))
        error: Any = caught.value.cause
        assert isinstance(error, TokenNotFoundError)
        if isinstance(store, EncryptedFileStore):
            assert str(error).startswith(f"{store_path}: there is no token '1' in this store, which has 0 tokens. ")
        else:
            assert str(error).startswith("there is no token '1' in the store in memory, which has 0 tokens. ")

    def test_find_token_by_id_of_unknown_id_suits_the_sdk(self, store: Any, caplog: pytest.LogCaptureFixture) -> None:
        """8_0 signs in under that id after None; the others fail on None with an error that names no store."""
        if SDK < 8:
            with pytest.raises(SDKException, match=r"there is no token '1' in .*which has 0 tokens"):
                store.find_token_by_id("1")
        else:
            assert store.find_token_by_id("1") is None
            assert "there is no token '1' in" in caplog.text
            assert [record.levelno for record in caplog.records if "no token" in record.msg % record.args] == [
                logging.WARNING
            ]

    def test_find_token_by_id_of_unknown_id_raises_where_the_sdk_needs_a_record(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_sdk, "_fails_without_record", lambda: True)
        with pytest.raises(SDKException, match=r"there is no token '1' in .*which has 0 tokens"):
            store.find_token_by_id("1")

    @pytest.mark.needs_fork
    def test_program_with_unknown_id_names_the_store(self, zoho: FakeZoho, store_path: Path, key: bytes) -> None:
        setting = Setting(OURS, store_path, key, zoho.url, first_token={"id": "1"})
        with Crew(setting, 1) as crew:
            [error] = failures(crew.request())
        if SDK < 8:
            assert f"{store_path}: there is no token '1' in this store, which has 0 tokens" in error
            assert "MERGE_OBJECT" not in error
            assert zoho.count("grant") == zoho.count("refresh") == 0


@pytest.mark.parametrize("build", ["of 8_0", "of 7_0", "compiled", "renamed"])
def test_sdk_that_fails_on_none_is_told_by_what_it_does(build: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is installed: a merge of None is what is looked for, and any other outcome allows None."""

    def merges(_token: Any) -> None:
        raise SDKException("MERGE_OBJECT")

    def goes_on(_token: Any) -> str:
        return "access token"

    def breaks(_token: Any) -> None:
        raise LookupError

    build_of = {"of 8_0": goes_on, "of 7_0": merges, "compiled": len, "renamed": breaks}
    monkeypatch.setattr(OAuthToken, "get_token", build_of[build])
    _sdk._fails_without_record.cache_clear()
    try:
        assert _sdk._fails_without_record() is (build == "of 7_0")
    finally:
        monkeypatch.undo()
        _sdk._fails_without_record.cache_clear()
    assert _sdk._fails_without_record() is (SDK < 8)
