"""What is hidden from tools that print the variables of the frames of a traceback."""

from __future__ import annotations

import traceback

import pytest

from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore.errors import ConfigurationError, KeystoreError


def _functions(error: BaseException | None) -> list[str]:
    """Return the names of the functions in a traceback, but for that of the test."""
    assert error is not None
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)][1:]


def test_hidden_shows_no_value() -> None:
    hidden = Hidden("secret")
    assert (repr(hidden), str(hidden), hidden.value) == ("<hidden>", "<hidden>", "secret")
    again: Hidden[str] = Hidden.of(hidden)
    assert again is hidden
    assert Hidden.of("secret").value == "secret"


def test_without_frames_returns_what_the_call_returns() -> None:
    assert without_frames(lambda: 1) == 1


@pytest.mark.parametrize("is_explicit", [False, True])
def test_error_without_frames_drops_those_of_what_led_to_it(*, is_explicit: bool) -> None:
    """An error of a library that a secret was given to, and the error that followed from it."""

    def fail() -> None:
        try:
            int("secret")
        except ValueError as error:
            raise ConfigurationError("wrong") from (error if is_explicit else None)

    with pytest.raises(ConfigurationError) as caught:
        without_frames(fail)
    assert _functions(caught.value) == ["without_frames"]
    assert isinstance(caught.value.__context__, ValueError)
    assert caught.value.__context__.__traceback__ is None


def test_without_frames_keeps_those_of_the_error_that_its_caller_handles() -> None:
    """They belong to another call."""

    def fail() -> None:
        raise ConfigurationError("wrong")

    seen: list[BaseException | None] = []
    try:
        fail()
    except KeystoreError as first:
        seen.append(first)
        with pytest.raises(ConfigurationError) as caught:
            without_frames(fail)
    assert seen == [caught.value.__context__]
    assert _functions(seen[0]) == ["fail"]
