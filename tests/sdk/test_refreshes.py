"""One refresh for all processes: the real SDK in real processes and threads, against a stand-in for Zoho on loopback.

Where the number of requests is what a test is about, the same is done with leases switched off, and has to come out
otherwise.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken

from fake_zoho import FakeZoho
from faults.refreshes import FILE_STORE, MEETINGS, OURS, WITHOUT_LEASES, Crew, Meeting, Outcome, Setting, meet
from zoho_keystore import EncryptedFileStore, InMemoryStore
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._open import open_keystore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs_cheap_processes

BY_NAME = {meeting.who: meeting for meeting in MEETINGS}
RACES = [
    *[meeting for meeting in MEETINGS if meeting.tokens == 1],
    Meeting("24 processes, Zoho answers at once", BY_NAME["24 processes"].make, delay_s=0),
]
SIDE_BY_SIDE = next(meeting for meeting in MEETINGS if meeting.tokens > 1)


def names(meeting: Meeting) -> str:
    """Name the case of a test."""
    return meeting.who


def test_the_cases_of_this_module_are_those_that_are_asked_for() -> None:
    """The table of docs/benchmarks.md is made from the same ones."""
    assert [(meeting.who, meeting.delay_s) for meeting in RACES] == [
        ("5 processes", 0.3),
        ("8 processes", 0.3),
        ("24 processes", 0.3),
        ("8 processes, Zoho answers at once", 0),
        ("8 threads of a process", 0.3),
        ("8 children, forked after it was opened", 0.3),
        ("24 processes, Zoho answers at once", 0),
    ]
    assert (SIDE_BY_SIDE.tokens, SIDE_BY_SIDE.delay_s) == (6, 0.5)


@pytest.mark.parametrize("meeting", RACES, ids=names)
def test_one_of_all_refreshes_an_expired_token(meeting: Meeting, tmp_path: Path) -> None:
    """And all end with the same access token, soon after Zoho's reply."""
    seen = meet(meeting, OURS, tmp_path)
    assert [outcome.error for outcome in seen.outcomes if outcome.error] == []
    assert seen.refreshes == 1
    assert len({outcome.access_token for outcome in seen.outcomes}) == 1
    replied_s = min(outcome.ended_s for outcome in seen.outcomes)
    assert max(outcome.ended_s for outcome in seen.outcomes) - replied_s < 3


@pytest.mark.mutants
@pytest.mark.parametrize("meeting", RACES, ids=names)
def test_without_leases_several_refresh_it(meeting: Meeting, tmp_path: Path) -> None:
    """So the test above would show it if the store did not make one refresh."""
    seen = meet(meeting, WITHOUT_LEASES, tmp_path)
    assert [outcome.error for outcome in seen.outcomes if outcome.error] == []
    assert seen.refreshes > 1


def test_with_filestore_five_processes_make_five_refreshes(tmp_path: Path) -> None:
    """That is what people have today; a lost token in the file may make it one or two less."""
    assert meet(BY_NAME["5 processes"], FILE_STORE, tmp_path).refreshes >= 3


def test_different_tokens_are_refreshed_side_by_side(tmp_path: Path) -> None:
    """One after the other, the six would take 3 s."""
    seen = meet(SIDE_BY_SIDE, OURS, tmp_path)
    assert [outcome.error for outcome in seen.outcomes if outcome.error] == []
    assert seen.refreshes == 6
    assert len({outcome.access_token for outcome in seen.outcomes}) == 6
    assert max(outcome.ended_s for outcome in seen.outcomes) - min(outcome.started_s for outcome in seen.outcomes) < 3


# --- when something goes wrong --------------------------------------------------------------------------------------


class Scene:
    """A stand-in for Zoho, and a store in which a token is good until it is let expire."""

    def __init__(self, zoho: FakeZoho, path: Path, refresh_wait: float) -> None:
        self.zoho = zoho
        self.setting = Setting(OURS, path, Fernet.generate_key(), zoho.url, refresh_wait)
        self.setting.keep(zoho, 1)
        self._keystore = open_keystore(path, key=self.setting.key)

    def refresher(self) -> int:
        """Return the process that has the lease, once it has asked Zoho for a new access token."""
        wait_until(lambda: self.zoho.count("refresh") == 1)
        lease = Lease.of(self._keystore.records()[0].refresh)
        assert lease is not None
        assert lease.owner is not None
        return lease.owner.pid


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Give a scene, with the refresh wait that the test asks for."""
    with FakeZoho() as zoho:
        yield Scene(zoho, tmp_path / "tokens.keystore", getattr(request, "param", 10.0))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def errors(outcomes: list[Outcome]) -> list[str]:
    """Return what went wrong."""
    return [outcome.error for outcome in outcomes if outcome.error]


def test_when_the_refreshing_process_is_killed_another_takes_over(scene: Scene) -> None:
    """At once, and not when the lease would have ended."""
    scene.zoho.delay_s = 60
    with Crew(scene.setting, 4) as crew:
        scene.setting.expire()
        crew.go()
        refresher = scene.refresher()
        scene.zoho.delay_s = 0
        assert refresher in [process.pid for process in crew.processes]
        os.kill(refresher, signal.SIGKILL)
        killed_s = time.monotonic()
        outcomes = crew.outcomes()
    assert errors(outcomes) == []
    assert len(outcomes) == 3
    assert max(outcome.ended_s for outcome in outcomes) - killed_s < 2
    assert {outcome.access_token for outcome in outcomes} == {scene.zoho.issued[-1]}
    assert scene.zoho.count("refresh") == 2


@pytest.mark.parametrize("scene", [4.0], indirect=True)
def test_killed_refresher_is_not_taken_for_a_failed_refresh(scene: Scene) -> None:
    """After its lease has ended, the others refresh one at a time as ever: Zoho would deny most of their requests."""
    scene.zoho.delay_s = 60
    with Crew(scene.setting, 8) as crew:
        scene.setting.expire()
        first, *others = crew.ends
        first.send("go")
        os.kill(scene.refresher(), signal.SIGKILL)
        scene.zoho.delay_s = 0.3
        time.sleep(2.1)
        for end in others:
            end.send("go")
        outcomes = crew.outcomes(others)
    assert errors(outcomes) == []
    assert len(outcomes) == 7
    assert scene.zoho.count("refresh") == 2


@pytest.mark.parametrize("scene", [2.0], indirect=True)
def test_when_the_refreshing_process_hangs_the_others_go_on(scene: Scene) -> None:
    """After its lease one of them takes over, and the others get its token."""
    scene.zoho.delay_s = 60
    with Crew(scene.setting, 4) as crew:
        scene.setting.expire()
        crew.go()
        refresher = scene.refresher()
        os.kill(refresher, signal.SIGSTOP)
        scene.zoho.delay_s = 0
        others = [end for end, process in zip(crew.ends, crew.processes, strict=True) if process.pid != refresher]
        outcomes = crew.outcomes(others)
    assert errors(outcomes) == []
    assert len(outcomes) == 3
    assert all(0.9 < outcome.lasted_s < 2.5 for outcome in outcomes)
    assert {outcome.access_token for outcome in outcomes} == {scene.zoho.issued[-1]}
    assert scene.zoho.count("refresh") == 2


@pytest.mark.parametrize("scene", [4.0], indirect=True)
@pytest.mark.parametrize("trouble", ["an error of the server", "a page of a gateway", "Access Denied"])
def test_failing_refreshes_stall_each_process_once_at_the_most(scene: Scene, trouble: str) -> None:
    """While Zoho fails, later requests do not wait; the first token that is saved serves all again."""

    def fail(times: int) -> None:
        if trouble == "Access Denied":
            scene.zoho.deny_next(times)
        else:
            scene.zoho.fail_next(times, html=trouble == "a page of a gateway")

    with Crew(scene.setting, 6) as crew:
        scene.setting.expire()
        fail(1000)
        stalled = crew.request()
        failed = crew.request()
        fail(0)
        succeeded = crew.request()
        asked = scene.zoho.count("refresh")
        settled = crew.request()
    assert len(errors(stalled)) == len(errors(failed)) == 6
    assert all("SDKException" in error for error in errors(failed))
    assert max(outcome.lasted_s for outcome in stalled) < 4 + 3
    assert max(outcome.lasted_s for outcome in failed) < 2
    assert errors(succeeded) == errors(settled) == []
    assert max(outcome.lasted_s for outcome in succeeded) < 2
    assert len({outcome.access_token for outcome in settled}) == 1
    assert scene.zoho.count("refresh") == asked


@pytest.mark.parametrize("scene", [4.0], indirect=True)
def test_threads_of_a_process_stall_once_while_refreshes_fail(scene: Scene) -> None:
    """6 threads with 2 requests each: 20 s when each request waited for 10 s."""
    with Crew(scene.setting, 1, threads=6) as crew:
        scene.setting.expire()
        scene.zoho.fail_next(1000)
        started_s = time.monotonic()
        outcomes = [*crew.request(), *crew.request()]
    assert len(errors(outcomes)) == 12
    assert time.monotonic() - started_s < 4 + 3


@pytest.mark.parametrize("scene", [4.0], indirect=True)
@pytest.mark.parametrize("threads", [0, 8], ids=["processes", "threads"])
def test_after_a_failed_refresh_one_other_takes_over(scene: Scene, threads: int) -> None:
    """When the lease ends, and in time for all that wait; seven did at once when the lease was as long as the wait."""
    with Crew(scene.setting, 1 if threads else 8, threads=threads) as crew:
        scene.setting.expire()
        scene.zoho.fail_next(1)
        outcomes = crew.request()
    assert len(errors(outcomes)) == 1
    assert scene.zoho.count("refresh") == 2
    assert {outcome.access_token for outcome in outcomes if not outcome.error} == {scene.zoho.issued[-1]}
    assert max(outcome.lasted_s for outcome in outcomes) < 4


@pytest.mark.parametrize("scene", [8.0], indirect=True)
def test_a_process_that_asks_again_does_not_prolong_its_lease(scene: Scene) -> None:
    """Its refreshes fail, and it goes on making requests; once the others waited for 25 s."""
    with Crew(scene.setting, 3) as crew:
        scene.setting.expire()
        scene.zoho.fail_next(3)
        holder, *others = crew.ends
        for _ in range(3):
            holder.send("go")
            assert len(errors(crew.outcomes([holder]))) == 1
        for end in others:
            end.send("go")
        outcomes = crew.outcomes(others)
    assert errors(outcomes) == []
    assert max(outcome.lasted_s for outcome in outcomes) < 3


def test_stores_wait_for_10_s_by_default_and_lease_for_5(store_path: Path, key: bytes) -> None:
    """As their documentation says, while other hosts refresh a token one after the other."""
    slept_s: list[float] = []
    stores: list[Any] = [EncryptedFileStore(store_path, key=key), InMemoryStore()]
    for store in stores:
        keystore = store._keystore
        store.save_token(OAuthToken(client_id="client", client_secret="any", refresh_token="r"))
        before_ms = time.time_ns() // 1_000_000
        store.find_token_by_id("1")
        lease = Lease.of(keystore.records()[0].refresh)
        assert lease is not None
        assert 5000 <= lease.deadline_ms - before_ms < 6000
        # A host whose lease does not end while this one waits, on a clock that only its pauses move.
        other = Lease(replace(Owner.current(), host="another"), lease.deadline_ms + 10_000)
        with keystore._storage.transaction() as transaction:
            transaction.put(replace(keystore.records()[0], refresh=other.as_fields()))
        slept_s.clear()
        coordinator = keystore._coordinator
        coordinator._monotonic_s, coordinator._sleep = (lambda: sum(slept_s)), slept_s.append
        assert store.find_token_by_id("1").get_refresh_token() == "r"
        assert sum(slept_s) == pytest.approx(10)


def test_a_process_that_runs_on_follows_what_another_has_refreshed(scene: Scene) -> None:
    """Time after time, also with requests in between."""
    with Crew(scene.setting, 3) as crew:
        for times in range(1, 4):
            scene.setting.expire()
            outcomes = [*crew.request(), *crew.request()]
            assert errors(outcomes) == []
            assert {outcome.access_token for outcome in outcomes} == {scene.zoho.issued[-1]}
            assert scene.zoho.count("refresh") == times


def test_listing_tokens_refreshes_and_leases_nothing(scene: Scene) -> None:
    """Also when they have expired."""
    scene.setting.expire()
    store: Any = scene.setting.open()
    before = scene.setting.path.read_bytes()
    [token] = store.get_tokens()
    assert token.get_access_token() == "not asked for yet"
    assert scene.setting.path.read_bytes() == before
    assert scene.zoho.count("refresh") == 0
