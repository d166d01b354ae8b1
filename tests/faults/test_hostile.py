"""Whatever was put in the place of the store's file is refused, or kept whole; and it stays."""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults import hostile
from faults.hostile import fuzz, odd_files, replaced_files
from faults.mutants import patch
from zoho_keystore._storage import codec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("engine", "least"),
    [
        (partial(replaced_files, contents="flipped"), 3000),
        (partial(replaced_files, contents="cut"), 800),
        (partial(replaced_files, contents="edited"), 2000),
        (partial(replaced_files, contents="other"), 30),
        (odd_files, 7),
        (partial(fuzz, inputs=10_000, seed=1), 10_000),
    ],
    ids=["flipped", "cut", "edited", "other", "odd", "fuzzed"],
)
def test_hostile_file_is_refused_and_stays(directory: Path, engine: Callable[..., Any], least: int) -> None:
    """Every use of it raises an error of the package's own; and once the sound file is put back, all goes on."""
    result = engine(directory)
    assert result.failures == []
    assert result.tried >= least


def _replacing(name: str, mutant: object) -> Callable[[], None]:
    return lambda: patch(codec, **{name: mutant})


def _reckless(data: bytes, decode: Callable[..., Any] = codec.decode, **options: Any) -> Any:
    with suppress(ValueError):
        json.loads(data)
    return decode(data, **options)


def _forgetful(header: codec.Header, records: Any, encode: Callable[..., bytes] = codec.encode, **_: Any) -> bytes:
    return encode(codec.Header(store_id=header.store_id), records)


def _in_trouble(trouble: Callable[[], object], decode: Callable[..., Any] = codec.decode) -> Callable[[], None]:
    def troubled(data: bytes, **options: Any) -> Any:
        if b"\xff" in data:
            trouble()
        return decode(data, **options)

    return _replacing("decode", troubled)


FUZZ = partial(fuzz, inputs=5000, seed=1)


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("engine", "mutant", "caught_for"),
    [
        # It is what loses everything: the next save puts an almost empty store in the damaged file's place.
        (
            partial(replaced_files, contents="flipped"),
            "unreadable read as empty",
            "it was opened, read, saved to, overwritten$",
        ),
        (partial(replaced_files, contents="edited"), "text inside accepted", "inserted at"),
        (FUZZ, "text inside accepted", "it opens, and was not encrypted so"),
        (FUZZ, _replacing("decode", _reckless), "RecursionError in"),
        (FUZZ, _replacing("_decoder", json.JSONDecoder()), "Out of range float|cannot be written|differs"),
        (FUZZ, _replacing("encode", _forgetful), "differs"),
        (FUZZ, _in_trouble(lambda: 1 / 0), "ZeroDivisionError in"),
        (FUZZ, _in_trouble(lambda: bytes(hostile.MEMORY_BYTES)), "MemoryError in"),
        (FUZZ, _in_trouble(lambda: os._exit(7)), "the process ended with status 7"),
        (partial(FUZZ, silence_s=0.5), _in_trouble(lambda: time.sleep(60)), "the process did nothing for 0.5 s"),
    ],
    ids=[
        *("unreadable-as-empty", "text-inside", "text-inside-fuzzed", "recursion", "infinity", "forgetful"),
        *("other-error", "memory", "crash", "hang"),
    ],
)
def test_hostile_files_catch_mutant(directory: Path, engine: Callable[..., Any], mutant: Any, caught_for: str) -> None:
    """Accepted files, losses, other errors, crashes and hangs are failures of the content that brought them."""
    result = engine(directory, mutant=mutant)
    assert len(result.failures) == 1
    assert re.search(caught_for, result.failures[0])


def test_fuzz_input_is_repeated_by_its_number(directory: Path) -> None:
    """An input is made from its number alone."""
    mutant = _replacing("decode", _reckless)
    first = fuzz(directory, inputs=5000, seed=5, mutant=mutant).failures
    number = re.match(r"input (\d+): ", first[0])
    assert number is not None
    assert fuzz(directory, inputs=1, seed=int(number[1]), mutant=mutant).failures == first
    assert fuzz(directory, inputs=1, seed=int(number[1])).failures == []
