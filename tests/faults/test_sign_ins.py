"""Sign-ins killed at each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from faults.mutants import MUTANTS, _put
from faults.sign_ins import KEPT, NOT_SPENT, TOLD_LOST, sign_in_kills
from zoho_keystore._cli.login import Terminal
from zoho_keystore._keystore import Keystore
from zoho_keystore._oauth import endpoints
from zoho_keystore._operations import sign_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_keystore._records import TokenRecord

pytestmark = pytest.mark.timeout(300)


def named_before_it_is_saved() -> None:
    """Ask who the user is first, as the SDK does."""
    save = Keystore.save

    def late(self: Keystore, given: TokenRecord, **options: Any) -> TokenRecord:
        if given.api_domain:
            endpoints.user_name(given.api_domain, given.access_token or "")
        return save(self, given, **options)

    _put(Keystore, save=late)


def told_nothing() -> None:
    """Exchange the code without a word."""
    tell = Terminal.tell
    _put(Terminal, tell=lambda self, text: None if text == sign_in._EXCHANGING else tell(self, text))


def removed_before_it_is_renewed() -> None:
    """Take the user's record away in a step of its own."""
    finish = Keystore.finish_sign_in

    def steps(self: Keystore, id: str, user_name: str | None, **options: Any) -> TokenRecord | None:
        for record in self.records():
            if record.user_name == user_name:
                self.delete(record.id)
        return finish(self, id, user_name, **options)

    _put(Keystore, finish_sign_in=steps)


def test_login_killed_at_any_operation_keeps_what_was_issued_or_says_that_it_is_lost(tmp_path: Path) -> None:
    result = sign_in_kills(tmp_path)
    assert result.failures == []
    assert result.tried > 80
    assert set(result.figures) == {KEPT, NOT_SPENT, TOLD_LOST}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mutate", "caught_for"),
    [
        (named_before_it_is_saved, "Zoho was asked something else before it was saved"),
        (told_nothing, "a token is lost, and the user was told"),
        (removed_before_it_is_renewed, "the token that the user had before is lost"),
    ],
)
def test_login_without_a_protection_is_caught(
    mutate: Callable[[], None], caught_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MUTANTS, "further", mutate)
    [failure] = sign_in_kills(tmp_path, mutant="further").failures
    assert caught_for in failure
