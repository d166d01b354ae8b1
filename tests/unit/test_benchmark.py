"""What the benchmark makes of its figures; ``scripts/benchmark.py --quick`` shows that it runs."""

from __future__ import annotations

import json
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from cryptography.fernet import Fernet

import benchmark
from bench import limits, picture, processes, report, runs, sql, stores
from bench.aims import Aim
from bench.timing import Budget, Candidate, Spread, again, interleaved, ratio, spread
from zoho_keystore._storage import codec


def same(value: float) -> Spread:
    return spread([value])


def taken(ours: float, limit: float, file_store: float) -> dict[str, list[float]]:
    return {stores.OURS: [ours] * 3, stores.LIMIT: [limit] * 3, stores.FILE_STORE: [file_store] * 3}


def figures(*, find_s: float = 6e-6, save_s: float = 6e-3, bare_per_s: float = 600.0) -> report.Figures:
    """Return the figures of a run in which all aims are met."""
    finds = {tokens: taken(find_s, 2e-6, tokens * 1e-4) for tokens in (1, 1_000)}
    saves = {tokens: taken(save_s * tokens, 5e-3 * tokens, 7e-3 * tokens) for tokens in (1, 1_000, 10_000)}
    return report.Figures(
        facts={"processor": "slow & old", "file system": "ext4", "kernel": "Linux", "Python": "3"},
        left_out=[stores.MSAL],
        measured={runs.BY_ID: finds, runs.FIND_FILLED: finds, runs.FIRST_FIND: saves, runs.SAVE: saves},
        crowd=processes.Crowd(24, same(500.0), same(bare_per_s), same(500.0 / bare_per_s), same(0.01), 0.1),
        imports=same(0.03),
        memory=same(30e6),
    )


def missed(found: report.Figures) -> set[str]:
    return {aim.what.partition(":")[0] for aim in found.aims() if not aim.is_met}


def test_spread_has_median_and_quartiles() -> None:
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_ratio_is_by_rounds() -> None:
    assert ratio([2.0, 200.0, 6.0], [1.0, 1.0, 2.0]).median == 3.0


def test_interleaved_samples_by_turns_and_settles_outside_the_clock() -> None:
    told: list[str] = []
    quick = Candidate("quick", again(partial(told.append, "quick")), settle=partial(time.sleep, 0.02))
    slow = Candidate("slow", again(partial(time.sleep, 0.01)))
    measured = interleaved([quick, slow], Budget(4), before_each=partial(told.append, "sample"))
    assert len(measured["quick"]) == len(measured["slow"]) == 4
    assert min(measured["quick"]) < 0.01 <= min(measured["slow"])
    # Two samples of each find out how many calls make up a sample.
    assert told.count("quick") == 2 + 4
    assert told.count("sample") == 2 * told.count("quick")
    assert all(told[place - 1] == "sample" for place, what in enumerate(told) if what == "quick")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.01, "10 ms"), (1e-3, "1 ms"), (1e-6, "1 µs"), (1.2345e-5, "12.3 µs"), (5e-8, "50 ns")],
)
def test_duration_has_three_digits_and_unit(seconds: float, text: str) -> None:
    assert report.duration(seconds) == text


def test_table_is_aligned() -> None:
    text = report.by_size_table({1: {"a": same(1.0)}, 1_000: {"a": Spread(2e-3, 1.9e-3, 2.3e-3, 5), "b": same(3e-3)}})
    assert text.splitlines()[0].split() == ["|", "tokens", "|", "1", "|", "1,000", "|"]
    assert len(set(map(len, text.splitlines()))) == 1
    assert "2 ms ± 10%" in text


def test_aims_are_judged_by_the_median() -> None:
    assert missed(figures()) == set()
    assert missed(figures(find_s=7.1e-6)) == {"find_token_by_id, 1 stored", "find_token_by_id, 1,000 stored"}
    # Up to 1,000 tokens beside the limit, and from 1,000 on beside FileStore.
    assert missed(figures(save_s=7.6e-3)) == {f"save_token, {tokens} stored" for tokens in ("1", "1,000", "10,000")}
    assert missed(figures(save_s=7.2e-3)) == {"save_token, 1,000 stored", "save_token, 10,000 stored"}
    assert missed(figures(bare_per_s=650.0)) == {"24 processes saving"}


def test_aim_row_has_bound_figure_and_verdict() -> None:
    assert Aim("memory", Spread(41.5, 41.0, 1_234.0, 3), 40.0, "MB").row() == (
        "memory",
        "≤ 40 MB",
        "41.5 MB (41 to 1,234)",
        "NO",
    )
    assert Aim("rate", same(0.75), 0.7, "s", at_least=True).row()[1:] == ("≥ 0.7 s", "0.75 s (0.75 to 0.75)", "yes")
    assert Aim("shown", same(0.75), None, "s").row()[1::2] == ("", "")


def test_report_names_machine_and_missing_peers() -> None:
    text = figures().as_text()
    assert text.startswith("processor: slow & old\n")
    assert f"not installed: {stores.MSAL}" in text


def test_json_has_figures_and_aims() -> None:
    content = json.loads(figures().as_json())
    assert content["seconds"][runs.BY_ID]["1000"][stores.OURS] == [6e-6, 6e-6, 6e-6, 3]
    assert content["processes"]["share"] == [0.8333, 0.8333, 0.8333, 1]
    assert all(aim["met"] for aim in content["aims"])


def test_picture_has_all_lines_inside_its_frame() -> None:
    root = ET.fromstring(benchmark.as_picture(figures()))  # noqa: S314 - our own
    tag = "{http://www.w3.org/2000/svg}"
    lines = root.findall(f".//{tag}polyline")
    assert len(lines) == 2 * 4
    texts = [text.text or "" for text in root.iter(f"{tag}text")]
    assert texts.count(stores.OURS) == texts.count(picture.AIM) == 2
    assert any("slow & old" in text for text in texts)
    labels = [float(label.attrib["y"]) for label in root.iter(f"{tag}text") if label.attrib["class"] == "label"]
    for heights in (labels[:4], labels[4:]):
        assert all(below - above >= 17 for above, below in pairwise(heights))
    points = [map(float, point.split(",")) for line in lines for point in line.attrib["points"].split()]
    assert all(0 < x < float(root.attrib["width"]) and 0 < y < float(root.attrib["height"]) for x, y in points)


def test_stores_hold_the_tokens_that_are_looked_for(tmp_path: Path, key: bytes) -> None:
    for store in (stores.ours(tmp_path, 3, key), stores.file_store(tmp_path, 3)):
        finds = [store.finder_by_id(2), store.finder(stores.filled_token(2)), store.finder(stores.new_token(2))]
        assert all(find() is not None for find in finds)
        store.saver(2, "new")()
        assert store.store.find_token_by_id("2").get_access_token() == "new"
        assert len(store.store.get_tokens()) == 3
        store.close()
    rows = stores.Sqlite(tmp_path, 3)
    rows.saver(2, "new")()
    assert rows.finder_by_id(2)() == tuple({**stores.fields(2), "access_token": "new"}.values())
    rows.close()


@pytest.mark.needs_modes
def test_limit_writes_and_reads_a_keystore(store_path: Path, key: bytes) -> None:
    content = stores.document(2)
    assert len(codec.decode(content)[1]) == 2
    limits.write(store_path, Fernet(key), content)
    assert limits.read(store_path, Fernet(key)) == json.loads(content)
    assert [path.name for path in store_path.parent.iterdir()] == [store_path.name]


def sql_figures(*, find_s: float = 1e-4, growth: float = 1.0, save_s: float = 1e-3) -> sql.Figures:
    """Return the figures of a run on SQLite in which all aims are met."""

    def finds(bare_s: float) -> dict[int, dict[str, list[float]]]:
        return {
            100: {sql.OURS: [find_s] * 3, sql.BARE: [bare_s] * 3},
            1_000: {sql.OURS: [find_s * growth] * 3, sql.BARE: [bare_s] * 3, "DBStore": [0.1] * 3},
        }

    saves = {rows: {sql.OURS: [save_s] * 3, sql.BARE: [6e-4] * 3} for rows in (100, 1_000)}
    facts = {"processor": "slow & old", "file system": "ext4", "kernel": "Linux", "Python": "3"}
    return sql.Figures(
        facts={**facts, "load at the start": "0.1", "SQLite": "SQLite 3"},
        left_out={"PostgreSQL": "apt-get install postgresql"},
        measured={"SQLite": {sql.BY_ID: finds(1e-5), sql.BY_TOKEN: finds(1e-5), sql.SAVE: saves}},
        rates={"SQLite": {sql.INSERTS: {sql.OURS: 1234.5}}},
    )


@pytest.mark.parametrize(
    ("options", "missed"),
    [
        ({}, 0),
        ({"find_s": 1.6e-4}, 4),
        ({"growth": 3.1, "find_s": 1e-5}, 2),
        ({"save_s": 1.3e-3}, 2),
    ],
)
def test_sql_aims_are_judged_by_the_median(options: dict[str, float], missed: int) -> None:
    """Two finds at two sizes each, their growth, and saves at two sizes."""
    aims = sql_figures(**options).aims()
    assert len(aims) == 8
    assert sum(not aim.is_met for aim in aims) == missed


def test_sql_report_has_machine_figures_and_what_was_left_out() -> None:
    figures = sql_figures()
    assert "PostgreSQL was left out: apt-get install postgresql" in figures.as_text()
    page = figures.into_page((Path(__file__).parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8"))
    assert figures.into_page(page) == page
    assert "slow & old" in page
    [row] = [line for line in page.splitlines() if "DBStore" in line and sql.BY_ID in line]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [sql.BY_ID, "SQLite", "DBStore", "", "100 ms"]
    assert "1,234" in page
    content = json.loads(figures.as_json())
    assert content["seconds"]["SQLite"][sql.BY_ID]["100"][sql.OURS] == [1e-4, 1e-4, 1e-4, 3]
