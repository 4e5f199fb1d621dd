"""Who is known: the first contact counts, any other identity is refused, and nobody is forgotten silently."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ecorelay.errors import RelayError
from ecorelay.file_lock import held
from ecorelay_bridge.known import FileTrust, Known, judge
from ecorelay_bridge.refusals import Reason, Refused

ONE, TWO = "SHA256:" + "1" * 43, "SHA256:" + "2" * 43


@pytest.fixture
def path(tmp_path):
    return tmp_path / "known-hubs.json"


def reason(*args, **more) -> Refused:
    with pytest.raises(Refused) as refused:
        judge(*args, **more)
    return refused.value


def test_a_hub_is_new_once_and_then_known() -> None:
    assert judge({}, "desk", ONE) is False
    assert judge({"desk": Known(identity=ONE)}, "desk", ONE) is True


def test_another_identity_is_refused_with_both_fingerprints_and_what_to_do() -> None:
    refused = reason({"desk": Known(identity=ONE)}, "desk", TWO)
    assert refused.reason is Reason.IDENTITY_CHANGED
    assert ONE in refused.sentence
    assert TWO in refused.sentence
    assert "ecorelay trust desk SHA256:…" in refused.remedy
    # The fingerprint to trust must be read on that machine: the one shown may be an impostor's.
    assert TWO not in refused.remedy


def test_a_pin_of_bridge_json_counts_more_than_what_was_remembered() -> None:
    known = {"desk": Known(identity=ONE)}
    assert judge(known, "desk", TWO, TWO) is True
    refused = reason(known, "desk", ONE, TWO)
    assert refused.reason is Reason.IDENTITY_CHANGED
    assert "bridge.json" in refused.remedy


def test_a_hub_id_that_differs_only_by_case_is_refused() -> None:
    refused = reason({"desk": Known(identity=ONE)}, "Desk", ONE)
    assert refused.reason is Reason.OTHER_CASE
    assert "desk" in refused.sentence


def test_a_name_in_bridge_json_counts_as_known_before_it_was_met() -> None:
    assert judge({}, "Desk", ONE, named=["Desk"]) is False
    with pytest.raises(Refused) as refused:
        judge({}, "desk", ONE, named=["Desk"])
    assert refused.value.reason is Reason.OTHER_CASE
    assert "Desk" in refused.value.remedy


def test_a_distrusted_hub_is_refused_under_every_name_it_takes() -> None:
    known = {"desk": Known(identity=ONE, distrusted=True)}
    for hub_id, identity in (("desk", ONE), ("desk", TWO), ("other", ONE)):
        assert reason(known, hub_id, identity).reason is Reason.DISTRUSTED
    assert judge(known, "other", TWO) is False


def test_a_hub_that_took_another_name_is_new() -> None:
    assert judge({"desk": Known(identity=ONE)}, "tower", ONE) is False


async def test_what_is_remembered_is_there_for_the_next_start(path) -> None:
    trust = FileTrust(path)
    assert trust.known() == {}
    await trust.remember("desk", ONE)
    assert trust.known() == FileTrust(path).known() == {"desk": Known(identity=ONE)}
    assert path.stat().st_mode & 0o777 == 0o600


def test_distrust_trust_and_forget(path) -> None:
    trust = FileTrust(path)
    trust.trust("desk", ONE)
    trust.distrust("desk")
    assert FileTrust(path).known() == {"desk": Known(identity=ONE, distrusted=True)}
    trust.trust("desk", TWO)
    assert FileTrust(path).known() == {"desk": Known(identity=TWO)}
    trust.forget("desk")
    assert FileTrust(path).known() == {}


def test_a_distrusted_identity_under_another_name_is_trusted_under_both(path) -> None:
    trust = FileTrust(path)
    trust.trust("desk", ONE)
    trust.distrust("desk")
    assert trust.trust("desk2", ONE) == ["desk"]
    assert judge(trust.known(), "desk2", ONE)
    assert judge(trust.known(), "desk", ONE)
    assert trust.trust("desk2", ONE) == []


async def test_a_hub_distrusted_during_its_handshake_is_not_remembered(path) -> None:
    hub = FileTrust(path)
    hub.trust("desk", ONE)
    FileTrust(path).distrust("desk")
    for name, identity in (("desk", TWO), ("other", ONE)):
        with pytest.raises(RelayError, match="distrusted"):
            await hub.remember(name, identity)
    assert FileTrust(path).known() == {"desk": Known(identity=ONE, distrusted=True)}


def test_a_distrust_is_not_lost_to_a_process_that_writes_all_the_time(path) -> None:
    """Without the lock each of two processes writes what it read before the other one wrote."""
    program = (
        "import sys, pathlib; from ecorelay_bridge import FileTrust\n"
        "trust = FileTrust(pathlib.Path(sys.argv[1])); print(flush=True)\n"
        "for i in range(10_000): trust.trust(f'new{i % 50}', sys.argv[2])"
    )
    mine = FileTrust(path)
    with subprocess.Popen([sys.executable, "-c", program, path, TWO], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        for _ in range(15):
            mine.trust("desk", ONE)
            mine.distrust("desk")
            time.sleep(0.02)
            assert FileTrust(path).known()["desk"].distrusted
        other.kill()


def test_a_lock_that_is_not_given_back_is_an_error_not_a_wait_for_ever(tmp_path) -> None:
    with (
        held(tmp_path / "lock"),
        pytest.raises(RelayError, match="another process"),
        held(tmp_path / "lock", 0.05),
    ):
        raise AssertionError
    with held(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("do", ["distrust", "forget"])
def test_an_unknown_hub_is_an_error_that_names_the_known(path, do) -> None:
    trust = FileTrust(path)
    trust.trust("desk", ONE)
    with pytest.raises(RelayError) as refused:
        getattr(trust, do)("tower")
    assert refused.value.code == "hub_not_found"
    assert "desk" in refused.value.message


def test_two_processes_with_the_file_undo_nothing_of_each_other(path) -> None:
    one, other = FileTrust(path), FileTrust(path)
    one.trust("desk", ONE)
    other.trust("tower", TWO)
    assert set(FileTrust(path).known()) == {"desk", "tower"}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "damaged"),
        (b'{"v":1,"hubs":{"desk":{"ident', "damaged"),
        (b'{"v":1,"hubs":{"desk":{"identity":"SHA256:x"}}}', "damaged"),
        (b'{"v":1,"hubs":{"two words":{"identity":"' + ONE.encode() + b'"}}}', "damaged"),
        (b"\xff\xfe", "damaged"),
        (b'{"v":2}', "newer version"),
    ],
)
def test_a_damaged_file_forgets_nobody_silently(path, content, word) -> None:
    path.write_bytes(content)
    with pytest.raises(RelayError, match=word):
        FileTrust(path)
    assert path.read_bytes() == content


async def test_a_full_disk_is_said_and_leaves_what_was_known(path, monkeypatch) -> None:
    trust = FileTrust(path)
    trust.trust("desk", ONE)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RelayError, match="No space left"):
        await trust.remember("tower", TWO)
    assert set(trust.known()) == set(FileTrust(path).known()) == {"desk"}
