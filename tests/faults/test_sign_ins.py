"""Sign-ins killed at each step: what Zoho has issued is kept, or the user was told that it would be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from faults.mutants import patch
from faults.sign_ins import KEPT, NOT_SPENT, TOLD_LOST, kill_sign_ins
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

    patch(Keystore, save=late)


def told_nothing() -> None:
    """Exchange the code without a word."""
    tell = Terminal.tell
    patch(Terminal, tell=lambda self, text: None if text == sign_in._EXCHANGING else tell(self, text))


def removed_before_it_is_renewed() -> None:
    """Take the user's record away in a step of its own."""
    finish = Keystore.finish_sign_in

    def steps(self: Keystore, id: str, user_name: str | None, **options: Any) -> TokenRecord | None:
        for record in self.records():
            if record.user_name == user_name:
                self.delete(record.id)
        return finish(self, id, user_name, **options)

    patch(Keystore, finish_sign_in=steps)


def test_login_killed_at_any_call_keeps_what_was_issued_or_says_that_it_is_lost(directory: Path) -> None:
    """A sample of the calls; ``scripts/torture.py`` takes all of them."""
    result = kill_sign_ins(directory, times=120)
    assert result.failures == []
    assert result.tried == 120
    assert result.figures.keys() == {KEPT, NOT_SPENT, TOLD_LOST}


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("mutant", "caught_for"),
    [
        (named_before_it_is_saved, "Zoho was asked something else before it was saved"),
        (told_nothing, "a token is lost, and the user was told"),
        (removed_before_it_is_renewed, "the token that the user had before is lost"),
    ],
)
def test_killed_logins_catch_mutant(mutant: Callable[[], None], caught_for: str, directory: Path) -> None:
    """Else the engine would prove nothing."""
    [failure] = kill_sign_ins(directory, mutant=mutant, times=120).failures
    assert caught_for in failure
