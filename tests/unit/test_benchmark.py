"""What the benchmark makes of its figures; that it runs is seen by ``--quick``."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from cryptography.fernet import Fernet

import benchmark
from bench import limits, machine, picture, processes, runs, stores, tables, targets
from bench.timing import Budget, Contestant, Spread, again, calls_per_sample, interleaved, ratio, spread, turns_every
from zoho_keystore._storage import codec

if TYPE_CHECKING:
    from pathlib import Path


def same(value: float) -> Spread:
    """Return what was measured without any spread."""
    return spread([value])


def taken(**seconds: float) -> dict[str, dict[int, float]]:
    """Return three rounds of contestants that always take the same."""
    names = {"ours": stores.OURS, "limit": stores.LIMIT, "file_store": stores.FILE_STORE}
    return {names[name]: dict.fromkeys(range(3), value) for name, value in seconds.items()}


def figures(*, ours_s: float = 5e-6) -> benchmark.Figures:
    """Return figures of a run."""
    finds = {tokens: taken(ours=ours_s, limit=2e-6, file_store=tokens * 1e-4) for tokens in (1, 1_000)}
    saves = {tokens: taken(ours=6e-3, limit=5e-3, file_store=tokens * 1e-5) for tokens in (1, 1_000)}
    return benchmark.Figures(
        facts={"processor": "slow & old", "file system": "ext4", "kernel": "Linux", "Python": "3"},
        left_out=[stores.MSAL],
        measured={runs.FIND: finds, runs.FIND_BY_ID: finds, runs.FIND_AFTER_SAVE: saves, runs.SAVE: saves},
        crowd=processes.Crowd(24, same(0.8), same(500.0), same(400.0), same(0.01), 0.1, same(0.9), same(600.0)),
        imports=processes.Imports(same(0.03), same(0.5), same(0.05)),
        memory=processes.Memory(10_000, same(30e6), same(35e6)),
    )


def test_a_spread_has_median_and_quartiles() -> None:
    """Of one value and of many, in any order."""
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0, 1)
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)


def test_a_ratio_is_that_of_the_rounds_in_which_both_took_part() -> None:
    """So a disturbed round is one of many."""
    assert ratio({0: 2.0, 1: 200.0, 2: 6.0, 3: 9.0}, {0: 1.0, 1: 1.0, 2: 2.0}).median == 3.0


def test_samples_are_as_long_as_wanted() -> None:
    """And one call at least."""
    assert calls_per_sample(1e-5, Budget(10, 1.0, sample_s=1e-3)) == 100
    assert calls_per_sample(1.0, Budget(10, 1.0)) == 1


def test_the_slow_have_fewer_turns() -> None:
    """But never less than the least."""
    budget = Budget(rounds=60, longest_s=6.0)
    assert [turns_every(one_s, budget) for one_s in (0.01, 0.2, 100.0)] == [1, 2, 20]


def test_contestants_are_measured_by_turns() -> None:
    """Each in each round, after what comes before a sample, and settled outside the clock."""
    told: list[str] = []
    quick = Contestant("quick", again(partial(told.append, "quick")), settle=partial(time.sleep, 0.02))
    slow = Contestant("slow", again(partial(time.sleep, 0.01)))
    measured = interleaved([quick, slow], Budget(4, 10.0), before_each=partial(told.append, "sample"))
    assert set(measured["quick"]) == set(measured["slow"]) == set(range(4))
    assert min(measured["quick"].values()) < 0.01 <= min(measured["slow"].values())
    # The first two are for finding out how long it takes.
    assert told.count("quick") == 2 + 4
    assert told.count("sample") == 2 * told.count("quick")
    assert all(told[place - 1] == "sample" for place, what in enumerate(told) if what == "quick")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (0.01, "10 ms"), (1e-3, "1 ms"), (1e-6, "1 µs"), (1.2345e-5, "12.3 µs"), (5e-8, "50 ns")],
)
def test_durations_have_their_unit(seconds: float, text: str) -> None:
    """With three digits."""
    assert tables.duration(seconds) == text


def test_tables_stand_in_line() -> None:
    """Also where a contestant was not measured."""
    text = tables.by_size({1: {"a": same(1.0)}, 1_000: {"a": same(2.0), "bcd": same(3e-3)}})
    assert text.splitlines()[0].split() == ["|", "tokens", "|", "1", "|", "1,000", "|"]
    assert len(set(map(len, text.splitlines()))) == 1
    assert "3 ms ± 0%" in text
    assert tables.of_spread(Spread(2e-3, 1.9e-3, 2.3e-3, 5)) == "2 ms ± 10%"


def test_targets_are_judged() -> None:
    """By the median, from above or from below."""
    judged = {target.what: target.is_met for target in figures().targets()}
    assert judged["find_token to one os.stat, 1"]
    assert judged["find_token_by_id: FileStore's to ours, 1,000"] is True
    assert judged["save_token to FileStore's, which syncs nothing, 1,000"]
    assert "find_token: FileStore's to ours, 10,000" not in judged
    assert all(judged.values())
    missed = {target.what for target in figures(ours_s=7e-6).targets() if not target.is_met}
    assert missed == {f"find_token{by} to one os.stat, {tokens}" for by in ("", "_by_id") for tokens in ("1", "1,000")}


def test_a_target_says_what_was_measured() -> None:
    """With its unit, and whether it is met."""
    low = targets.Target("memory", Spread(41.5, 41.0, 1_234.0, 3), 40.0, "MB")
    assert targets.row(low) == ("memory", "≤ 40 MB", "41.5 MB (41 to 1,234)", "NO")
    assert targets.row(targets.Target("rate", same(0.75), 0.7, at_least=True))[1:] == (
        f"≥ 0.7 {targets.TIMES}",
        f"0.75 {targets.TIMES} (0.75 to 0.75)",
        "yes",
    )


def test_the_report_names_the_machine_and_who_is_missing() -> None:
    """Before the figures."""
    text = benchmark.report(figures())
    assert text.startswith("processor: slow & old\n")
    assert f"not installed: {stores.MSAL}" in text


def test_the_figures_are_written_as_json() -> None:
    """With targets and spreads."""
    content = json.loads(benchmark.as_json(figures()))
    assert content["seconds"][runs.FIND]["1000"][stores.OURS]["median"] == 5e-6
    assert content["processes"]["rate"] == {"median": 0.8, "q1": 0.8, "q3": 0.8, "samples": 1}
    assert all(target["met"] for target in content["targets"])


def test_the_picture_is_well_formed() -> None:
    """With a line and a name for each contestant in each panel, inside of its frame."""
    root = ET.fromstring(benchmark.as_picture(figures()))  # noqa: S314 - our own
    tag = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{tag}polyline")) == 6
    texts = [text.text or "" for text in root.iter(f"{tag}text")]
    assert texts.count(stores.OURS) == 2
    assert any("slow & old" in text for text in texts)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for line in root.iter(f"{tag}polyline"):
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 < x < width
            assert 0 < y < height


def test_names_in_the_picture_do_not_cover_each_other() -> None:
    """They keep their order, and stay where they are if there is room."""
    placed = picture.spread_out({"a": 100.0, "b": 101.0, "c": 103.0, "far": 300.0}, 10.0)
    assert [round(placed[name], 1) for name in ("a", "b", "c", "far")] == [91.3, 101.3, 111.3, 300.0]


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    """Whatever characters its name has."""
    mounts = f"a / ext4 rw 0 0\nb {tmp_path} tmpfs rw 0 0\nc {tmp_path}/a\\040b xfs rw 0 0\n"
    assert machine.file_system(tmp_path / "a b" / "c", mounts) == "xfs"
    assert machine.file_system(tmp_path / "c", mounts) == "tmpfs"


def test_temporary_files_go_where_they_are_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else to a disk, if there is one."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert machine.folder_on_a_disk() == tmp_path.resolve()
    monkeypatch.delenv("TMPDIR")
    disk = "/var/tmp"  # noqa: S108 - nothing is written there
    monkeypatch.setattr(machine, "file_system", lambda path: "ext4" if str(path) == disk else "tmpfs")
    assert str(machine.folder_on_a_disk()) == disk


def test_the_stores_hold_what_is_looked_for(tmp_path: Path, key: bytes) -> None:
    """Ours, FileStore and its rows: the tokens, and what is saved."""
    for store in (stores.Ours(tmp_path, 3, key), stores.Plain(tmp_path, 3)):
        assert all(find() is not None for find in (store.finder(2), store.finder_by_id(2), store.finder_anew(2)))
        store.saver(2, "new")()
        assert store.store.find_token_by_id("2").get_access_token() == "new"
        assert len(store.store.get_tokens()) == 3
        store.close()
    rows = stores.Rows(tmp_path, 3)
    rows.saver(2, "new")()
    assert rows.finder(2)() == tuple({**stores.fields(2), "access_token": "new"}.values())
    rows.close()


def test_the_limit_writes_and_reads_a_keystore(store_path: Path, key: bytes) -> None:
    """The same bytes, so that both do the same work."""
    content = stores.document(2)
    assert len(codec.decode(content)[1]) == 2
    limits.write(store_path, Fernet(key), content)
    assert limits.read(store_path, Fernet(key)) == json.loads(content)
    assert [path.name for path in store_path.parent.iterdir()] == [store_path.name]
