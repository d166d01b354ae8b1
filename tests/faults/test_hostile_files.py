from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from faults import MUTANTS, hostile
from zoho_keystore._keys import fernet_key
from zoho_keystore._storage import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults import Result


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory, where there is such a place: nothing here is about the disk, which may be busy."""
    memory = Path("/dev/shm")  # noqa: S108 - the name in it is a random one
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as made:
        yield Path(made)


# --- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "least"),
    [
        (hostile.flip_every_bit, 3000),
        (hostile.cut_everywhere, 800),
        (hostile.edit_everywhere, 2000),
        (hostile.odd_files, 35),
    ],
)
def test_a_file_that_is_not_the_sealed_one_is_refused_and_stays(
    directory: Path, attack: Callable[[Path], Result], least: int
) -> None:
    """Whoever opens, reads or saves gets an error of ours; and once the sealed file is put back, all goes on."""
    result = attack(directory)
    assert result.failures == []
    assert result.tried >= least
    assert list(directory.iterdir()) == []


def test_fuzzed_seals_and_documents_are_refused_or_kept_whole(directory: Path) -> None:
    """No input gives an error of another kind, or is changed by being read and written."""
    calls = []
    result = hostile.fuzz(directory, inputs=30_000, seed=1, processes=2, progress=lambda: calls.append(1))
    assert result.failures == []
    assert result.tried == 30_000
    assert len(calls) == 30
    assert list(directory.iterdir()) == []


# --- mutants, each of which has to be caught ------------------------------------------------------------------------


def test_reading_unreadable_as_empty_is_caught(directory: Path) -> None:
    """It is what loses everything: the next save puts an almost empty store in the damaged file's place."""
    result = hostile.flip_every_bit(directory, mutant="unreadable read as empty")
    assert len(result.failures) == 1
    assert result.failures[0].endswith("it was opened, read, saved to, overwritten")


def _accept_text_inside() -> None:
    """Forget that the decoder of base64 skips what it does not know."""
    fernet_key.is_canonical = lambda *_: True  # base64's decoder skips what it does not know


@pytest.mark.parametrize(
    ("attack", "failure"),
    [
        (hostile.edit_everywhere, "inserted at"),
        (partial(hostile.fuzz, inputs=5000, seed=1), "it opens, and nobody has sealed it"),
    ],
)
def test_accepting_text_inside_the_sealed_token_is_caught(
    directory: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[..., Result], failure: str
) -> None:
    """Around the token and inside it: the same content, and yet not the file that was sealed."""
    monkeypatch.setitem(MUTANTS, "text inside accepted", _accept_text_inside)
    result = attack(directory, mutant="text inside accepted")
    assert len(result.failures) == 1
    assert failure in result.failures[0]


def _reckless(data: bytes, *known: Any, decode: Callable[..., Any] = codec.decode, **options: Any) -> Any:
    with suppress(ValueError):
        json.loads(data)
    return decode(data, *known, **options)


def _forgetful(header: codec.Header, records: Any, encode: Callable[..., bytes] = codec.encode) -> bytes:
    return encode(codec.Header(store_id=header.store_id), records)


def _decoding(trouble: Callable[[], object], decode: Callable[..., Any] = codec.decode) -> Callable[..., Any]:
    def troubled(data: bytes, *known: Any, **options: Any) -> Any:
        if b"\xff" in data:
            trouble()
        return decode(data, *known, **options)

    return troubled


@pytest.mark.parametrize(
    ("name", "mutant", "failure"),
    [
        pytest.param("decode", _reckless, "RecursionError in", id="a RecursionError let out"),
        pytest.param("_decoder", json.JSONDecoder(), "Out of range float|cannot be written", id="infinity let in"),
        pytest.param("encode", _forgetful, "differs", id="unknown fields forgotten"),
        pytest.param("decode", _decoding(lambda: 1 / 0), "ZeroDivisionError in", id="another error"),
        pytest.param("decode", _decoding(lambda: bytes(hostile._MEMORY_BYTES)), "MemoryError in", id="a lot of memory"),
        pytest.param("decode", _decoding(lambda: os._exit(7)), "a process ended with status 7", id="a crash"),
        pytest.param("decode", _decoding(lambda: time.sleep(60)), "a process did nothing for 0.5 s", id="a hang"),
    ],
)
def test_a_mutant_of_the_document_is_caught(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, mutant: object, failure: str
) -> None:
    """Other errors, losses, crashes and hangs are failures of the input that brought them."""
    monkeypatch.setitem(MUTANTS, "this one", lambda: setattr(codec, name, mutant))
    monkeypatch.setattr(hostile, "_SILENCE_S", 0.5)
    monkeypatch.setattr(hostile, "_REPORT_S", 0.1)
    result = hostile.fuzz(directory, inputs=5000, seed=1, mutant="this one")
    assert len(result.failures) == 1
    assert re.search(failure, result.failures[0])
    assert list(directory.iterdir()) == []


def test_a_failure_can_be_repeated_by_its_number(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input is made from its number alone."""
    monkeypatch.setitem(MUTANTS, "deep", lambda: setattr(codec, "decode", _reckless))
    first = hostile.fuzz(directory, inputs=5000, seed=5, mutant="deep").failures
    number = re.match(r"input (\d+): ", first[0])
    assert number is not None
    assert hostile.fuzz(directory, inputs=1, seed=int(number[1]), mutant="deep").failures == first
    assert hostile.fuzz(directory, inputs=1, seed=int(number[1])).failures == []
