"""The hub as a person starts, looks at and stops it."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ecorelay.endpoint import Endpoint, read_endpoint
from ecorelay.process import is_alive
from tests.helpers.command_line import CommandLine


@pytest.fixture
def ecorelay(tmp_path):
    command_line = CommandLine(tmp_path / "home", ECORELAY_KEEP_ALIVE="yes")
    yield command_line
    command_line.end_hub()


def running(command_line: CommandLine) -> Endpoint:
    found = read_endpoint(command_line.paths.endpoint)
    assert found is not None
    return found


@pytest.fixture
def on_demand(tmp_path):
    """A command line whose hubs leave when nobody needs them, but not while a test looks at them."""
    command_line = CommandLine(tmp_path / "home", ECORELAY_IDLE_EXIT_S="60")
    yield command_line
    command_line.end_hub()


def test_the_hub_is_started_looked_at_restarted_and_stopped(ecorelay):
    started = ecorelay("hub", "start")
    assert started.out == ""
    assert started.err.startswith("started: ")
    first = ecorelay("hub", "status", "--json").json
    assert "already running" in ecorelay("hub", "start").err
    assert ecorelay("hub", "status", "--json").json["pid"] == first["pid"]
    ecorelay("hub", "restart")
    second = ecorelay("hub", "status", "--json").json
    assert second["pid"] != first["pid"]
    assert not is_alive(first["pid"])
    assert ecorelay("hub", "stop").err.startswith("stopped: ")
    assert not is_alive(second["pid"])
    ecorelay("hub", "status", code=3)
    ecorelay("hub", "stop", code=3)
    ecorelay.paths.bridge.write_text("{")
    said = ecorelay("hub", "restart").err
    assert said.startswith("started: ")
    assert f"\nerror: no links to other hubs: {ecorelay.paths.bridge} is no valid JSON" in said


def test_the_status_of_the_hub_is_an_object_with_what_a_script_needs(ecorelay):
    ecorelay("hub", "start")
    found = ecorelay("hub", "status", "--json").json
    assert {"v", "pid", "hub_id", "version", "uptime_s", "sessions"} <= found.keys()
    assert found["v"] == 1
    assert is_alive(found["pid"])
    assert found["problems"] == []
    assert found["data_dir"] == str(ecorelay.paths.home)
    shown = ecorelay("hub", "status").out
    assert f"pid {found['pid']}" in shown
    assert found["hub_id"] in shown


def test_a_hub_that_was_started_by_hand_stays_and_one_started_on_demand_leaves(tmp_path):
    ecorelay = CommandLine(tmp_path / "home", ECORELAY_IDLE_EXIT_S="0")
    try:
        ecorelay("hub", "start")
        pid = ecorelay("hub", "status", "--json").json["pid"]
        ecorelay("peers")
        assert ecorelay("hub", "status", "--json").json["pid"] == pid
    finally:
        ecorelay.end_hub()


def test_a_dead_hubs_traces_do_not_pass_for_a_hub(ecorelay):
    ecorelay("hub", "start")
    pid = ecorelay("hub", "status", "--json").json["pid"]
    os.kill(pid, signal.SIGKILL)
    said = ecorelay("hub", "status", code=3)
    assert "hub" in said.err
    ecorelay("hub", "stop", code=3)
    assert ecorelay("hub", "start").err.startswith("started: ")


@pytest.mark.parametrize("word", ["start", "restart"])
def test_in_the_place_of_a_hub_on_demand_comes_one_that_stays(on_demand, word):
    on_demand("send", "ada", "precious")
    before = running(on_demand)
    assert not before.kept
    assert "started: " in on_demand("hub", word).err
    after = running(on_demand)
    assert after.kept
    assert not is_alive(before.pid, before.pid_start)
    assert on_demand("inbox", "--json").json["messages"][0]["text"] == "precious"


def test_of_several_that_start_it_at_once_all_end_with_the_same_hub(on_demand):
    on_demand("peers")
    with ThreadPoolExecutor() as several:
        said = list(several.map(lambda _: on_demand("hub", "start").err, range(4)))
    assert sum("already running" in each for each in said) == 3, said
    pid = running(on_demand).pid
    assert all(f"pid {pid}," in each for each in said), said
