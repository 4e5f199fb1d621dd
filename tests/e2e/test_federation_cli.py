"""Two hubs of two data directories on one machine, set up and used as people do it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay import wire
from ecorelay.client import open_hub_client
from ecorelay.endpoint import read_endpoint
from ecorelay.process import is_alive
from ecorelay.spawn import hub_connector
from tests.helpers.command_line import PATIENCE_S, CommandLine, Said

LINKED = re.compile(r"link +\w+: up, tcp 127\.0\.0\.1:\d+, ")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Person(CommandLine):
    """At one machine."""

    def __init__(self, home: Path, hub_id: str) -> None:
        super().__init__(home, ECORELAY_HUB_ID=hub_id, ECORELAY_KEEP_ALIVE="yes")
        self.home = home
        self.hub_id = hub_id
        self.port = free_port()

    def init(self, *words: str, stdin: bytes = b"", code: int = 0) -> Said:
        """`bridge-init` that stays on this machine."""
        own = ("--bind", "127.0.0.1", "--listen", str(self.port))
        return self("bridge-init", *own, *words, stdin=stdin, code=code)

    @property
    def bridge(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.paths.bridge.read_text(encoding="utf-8"))
        return found

    def change(self, **fields: Any) -> None:
        """Edit bridge.json; a field that is None is taken out."""
        table = {key: value for key, value in {**self.bridge, **fields}.items() if value is not None}
        self.paths.bridge.write_text(json.dumps(table), encoding="utf-8")

    def ask(self, frame: wire.Request, **hello: Any) -> Any:
        """A request to the running hub, without a process of its own."""

        async def asked() -> Any:
            greeting = wire.Hello(**{"versions": (1, 1), "role": "observer", **hello})
            connect = hub_connector(self.paths, self.environ, spawn=False)
            async with open_hub_client(greeting, connect=connect, stay=False) as hub:
                return await hub.request(frame)

        with_patience = partial(_within, asked)
        return trio.run(with_patience)

    @property
    def status(self) -> wire.HubDetails:
        found: wire.HubDetails = self.ask(wire.HubStatus(req_id=0))
        return found

    def link(self, hub_id: str) -> wire.LinkDetails:
        """What the hub says of another one; a hub without a name where it does not know it."""
        return next(
            (each for each in self.status.links if each.hub_id == hub_id), wire.LinkDetails(hub_id="-")
        )

    def knows(self, address: str) -> bool:
        """Whether it is among the peers."""
        return address in [peer.name for peer in self.ask(wire.Peers(req_id=0)).peers]

    def add(self, name: str) -> None:
        """An address."""
        self.ask(wire.AddPeer(req_id=0, op_id="", name=name))

    def fingerprint(self) -> str:
        return self("identity", "show").out.strip()

    def texts(self, name: str) -> list[str]:
        """What `name` has unread, which is read then."""
        return [mail["text"] for mail in self("inbox", "--as", name, "--json").json["messages"]]

    def unread(self, name: str) -> int:
        """How many messages wait for `name`."""
        page = self.ask(wire.Inbox(req_id=0, limit=100), role="attach", name=name)
        return len(page.messages)

    def await_texts(self, name: str, count: int) -> list[str]:
        await_(lambda: self.unread(name) >= count, f"{count} messages for {name}")
        return self.texts(name)

    def log(self) -> str:
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.home.glob("hub.log*")))

    def kill_hub(self) -> None:
        endpoint = read_endpoint(self.paths.endpoint)
        assert endpoint is not None
        os.kill(endpoint.pid, signal.SIGKILL)
        await_(lambda: not is_alive(endpoint.pid, endpoint.pid_start), "the hub is gone")

    def close(self) -> None:
        endpoint = read_endpoint(self.paths.endpoint)
        self.end_hub()
        if endpoint is not None:
            with suppress(AssertionError):
                await_(lambda: not is_alive(endpoint.pid, endpoint.pid_start), "the hub is gone")
        assert '"event":"crash"' not in self.log(), self.log()


async def _within(asked: Callable[[], Awaitable[Any]]) -> Any:
    with trio.fail_after(PATIENCE_S):
        return await asked()


def await_(holds: Callable[[], object], what: str) -> None:
    """Wait for something another process does and tells nobody."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


def _sees(one: Person, other: Person) -> bool:
    return one.link(other.hub_id).up


def await_link(*people: tuple[Person, Person]) -> None:
    """Each of the first sees its link to the second."""
    for one, other in people:
        await_(partial(_sees, one, other), f"{one.hub_id} is linked to {other.hub_id}")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path / "desk", "desk")
    yield person
    person.close()


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Person]:
    person = Person(tmp_path / "laptop", "laptop")
    yield person
    person.close()


def joined(desk: Person, laptop: Person) -> None:
    """The laptop is invited by the desk; both hubs run, linked."""
    desk.init()
    desk("hub", "start")
    laptop.init("--join", stdin=desk("bridge-invite").out.encode())
    laptop("hub", "start")
    await_link((laptop, desk), (desk, laptop))


def test_two_machines_from_nothing_and_mail_both_ways(desk: Person, laptop: Person):
    joined(desk, laptop)
    checked = laptop("bridge-check")
    assert "all is well" in checked.err
    assert "the running hub is linked to it" in checked.out
    assert "laptop (dials this hub)" in desk("bridge-check").out
    desk.add("api")
    await_(lambda: laptop.knows("api@desk"), "the laptop hears of api")
    sent = laptop("send", "api@desk", "Which port?", "--as", "ada", "--json").json
    assert (sent["status"], sent["to"]) == ("queued", "api@desk")
    [mail] = desk("inbox", "--as", "api", "--wait", "20", "--json").json["messages"]
    assert (mail["from"], mail["text"]) == ("ada@laptop", "Which port?")
    desk("reply", mail["msg_id"], "8080", "--as", "api")
    [answer] = laptop("inbox", "--as", "ada", "--wait", "20", "--json").json["messages"]
    assert (answer["from"], answer["text"], answer["reply_to"]) == ("api@desk", "8080", sent["msg_id"])
    traced = laptop("trace", sent["msg_id"]).out
    assert "to api@desk: forwarded" in traced or "to api@desk: replied" in traced
    assert "to api: replied" in desk("trace", sent["msg_id"]).out
    for person in (desk, laptop):
        assert LINKED.search(person("hub", "status").out)


def test_the_secret_is_nowhere_but_in_bridge_json(desk: Person, laptop: Person):
    joined(desk, laptop)
    secret = desk.bridge["secret"]
    assert laptop.bridge["secret"] == secret
    said = ""
    for person in (desk, laptop):
        for words in (
            ("bridge-check",),
            ("bridge-check", "--json"),
            ("hub", "status"),
            ("hub", "status", "--json"),
            ("hub", "reload"),
            ("doctor",),
            ("logs",),
            ("config", "show"),
        ):
            ended = person(*words, code=None)
            said += ended.out + ended.err
        files = [path for path in person.home.rglob("*") if path.is_file()]
        holding = [path.name for path in files if secret.encode() in path.read_bytes()]
        assert holding == ["bridge.json"]
        if sys.platform != "win32":
            assert all(path.stat().st_mode & 0o077 == 0 for path in files), files
    assert secret not in said


def test_a_machine_that_is_away_is_shown_so_and_its_mail_waits_over_a_restart(desk: Person, laptop: Person):
    joined(desk, laptop)
    desk.add("api")
    await_(lambda: laptop.knows("api@desk"), "the laptop hears of api")
    desk("hub", "stop")
    await_(lambda: not laptop.link("desk").up, "the link is down")
    listed = laptop("peers")
    assert re.search(r"api@desk +unreachable", listed.out)
    assert "desk went out of reach" in listed.err
    [api] = [peer for peer in laptop("peers", "--json").json["peers"] if peer["name"] == "api@desk"]
    assert api["unreachable_since"]
    for number in range(3):
        assert laptop("send", "api@desk", f"number {number}").out.split()[1] == "queued"
    missing = laptop("send", "apo@desk", "x", code=4)
    assert "did you mean api@desk" in missing.err
    assert "known hubs: desk" in laptop("send", "api@nowhere", "x", code=4).err
    assert re.search(r"link +desk: down, .*3 messages .* wait for it", laptop("hub", "status").out)
    laptop.kill_hub()
    laptop("hub", "start")
    assert laptop.link("desk").waiting == 3
    found = {each["check"]: each for each in laptop("doctor", "--json", code=None).json["checks"]}
    assert (found["link"]["level"], found["bridge.json"]["level"]) == ("warn", "ok")
    desk("hub", "start")
    assert desk.await_texts("api", 3) == ["number 0", "number 1", "number 2"]
    await_(lambda: laptop.link("desk").waiting == 0, "the outbox is empty")


def test_a_hub_never_seen_takes_mail_unverified(laptop: Person):
    laptop.init("--peer", f"desk=127.0.0.1:{free_port()}")
    laptop("hub", "start")
    sent = laptop("send", "api@desk", "are you there?", "--json").json
    assert (sent["status"], sent["unverified"]) == ("queued", True)
    assert "its hub has never told of one" in laptop("send", "api@desk", "again").err
    await_(lambda: "nothing listens at port" in laptop.link("desk").trouble, "the reason is told")
    assert "never seen yet; 2 messages" in laptop("hub", "status").out


def test_reload_takes_what_is_right_refuses_what_is_wrong_and_loses_no_session(desk: Person, laptop: Person):
    joined(desk, laptop)
    pid = laptop.status.pid
    laptop.paths.bridge.write_text(laptop.paths.bridge.read_text().replace('"secret"', '"sekret"'))
    refused = laptop("hub", "reload", code=2)
    assert "do you mean 'secret'?" in refused.err
    assert laptop.link("desk").up
    laptop.paths.bridge.write_text(laptop.paths.bridge.read_text().replace('"sekret"', '"secret"'))
    laptop.change(hub_id="another")
    refused = laptop("hub", "reload", code=2)
    assert "it runs as laptop: `ecorelay hub restart`" in refused.err
    laptop.change(hub_id="laptop", peers=[])
    laptop("hub", "reload")
    await_(lambda: not desk.link("laptop").up, "the laptop dials nobody")
    laptop.change(peers=[{"hub_id": "desk", "host": "127.0.0.1", "port": desk.port}])
    reloaded = laptop("hub", "reload")
    assert LINKED.search(reloaded.out), reloaded
    assert "no identity is pinned for desk" in reloaded.err
    laptop.paths.bridge.unlink()
    reloaded = laptop("hub", "reload")
    assert "this hub links to no other" in reloaded.err
    assert not laptop.link("desk").up
    assert laptop.status.pid == pid


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")
def test_sighup_reloads_too(desk: Person, laptop: Person):
    desk.init()
    desk("hub", "start")
    laptop("hub", "start")
    laptop.init("--join", stdin=desk("bridge-invite").out.encode())
    endpoint = read_endpoint(laptop.paths.endpoint)
    assert endpoint is not None
    os.kill(endpoint.pid, signal.SIGHUP)
    await_link((laptop, desk))


def test_bridge_init_reloads_the_running_hub_when_it_is_asked_to(desk: Person, laptop: Person):
    desk("hub", "start")
    assert "the running hub has read it" in desk.init("--reload").err
    await_(lambda: desk.status.listening, "it listens")
    laptop("hub", "start")
    said = laptop.init("--join", stdin=desk("bridge-invite").out.encode())
    assert "`ecorelay hub reload`" in said.err
    assert laptop.status.links == ()
    laptop("hub", "reload")
    await_link((laptop, desk))


def test_the_secret_is_changed_without_stopping_anything(desk: Person, laptop: Person):
    joined(desk, laptop)
    pids = [desk.status.pid, laptop.status.pid]
    old, new = desk.bridge["secret"], "a much better secret than before"
    desk.change(secret=new, previous_secret=old)
    desk("hub", "reload")
    await_link((laptop, desk), (desk, laptop))  # by the old one
    laptop.change(secret=new, previous_secret=old)
    laptop("hub", "reload")
    await_link((laptop, desk), (desk, laptop))
    for person in (desk, laptop):
        person.change(previous_secret=None)
        person("hub", "reload")
    await_link((laptop, desk), (desk, laptop))
    assert [desk.status.pid, laptop.status.pid] == pids


def test_a_wrong_secret_is_told_on_both_sides(desk: Person, laptop: Person):
    desk.init()
    desk("hub", "start")
    laptop.init("--peer", f"desk=127.0.0.1:{desk.port}")
    laptop("hub", "start")
    await_(lambda: "the secrets differ" in laptop.link("desk").trouble, "the laptop knows why")
    await_(lambda: any("the secrets differ" in each for each in desk.status.problems), "the desk knows")
    checked = laptop("bridge-check", code=1)
    assert "✗ proof" in checked.out
    assert "make `secret` the same on both machines" in checked.out
    for person in (desk, laptop):
        assert person.bridge["secret"] not in person.log()


def test_distrust_ends_the_link_at_once_and_trust_brings_it_back(desk: Person, laptop: Person):
    joined(desk, laptop)
    desk.add("api")
    laptop.add("web")
    await_(lambda: desk.knows("web@laptop"), "the desk hears of web")
    said = desk("distrust", "LAPTOP")
    assert "laptop is refused, its link has ended" in said.err
    await_(lambda: "it distrusts this hub" in laptop.link("desk").trouble, "the laptop knows why")
    assert not desk.link("laptop").up
    desk("send", "web@laptop", "waits", "--as", "api")
    said = desk("trust", "laptop", laptop.fingerprint())
    assert "1 message" in said.err
    laptop("hub", "reload")
    await_link((desk, laptop))
    assert laptop.await_texts("web", 1) == ["waits"]


def test_where_bridge_json_is_broken_distrust_ends_the_link_all_the_same(desk: Person, laptop: Person):
    joined(desk, laptop)
    good = desk.paths.bridge.read_text()
    desk.paths.bridge.write_text(good[:-5])
    said = desk("distrust", "laptop")
    assert "laptop is refused, its link has ended" in said.err
    assert "note: bridge.json has mistakes" in said.err
    await_(lambda: not desk.link("laptop").up, "the link ends")
    await_(lambda: "it distrusts this hub" in laptop.link("desk").trouble, "it cannot come back")
    assert any("the new bridge.json is no good" in each for each in desk.status.problems)
    desk.paths.bridge.write_text(good)
    desk("hub", "reload")
    assert not desk.link("laptop").up
    assert not any("is no good" in each for each in desk.status.problems)


def test_a_machine_set_up_anew_is_refused_until_it_is_trusted(desk: Person, laptop: Person):
    joined(desk, laptop)
    before = laptop.fingerprint()
    laptop("hub", "stop")
    (laptop.home / "identity.pem").unlink()
    laptop("hub", "start")
    await_(lambda: "it knows our hub_id with another identity" in laptop.link("desk").trouble, "refused")
    [problem] = [each for each in desk.status.problems if "laptop shows the identity" in each]
    assert before in problem
    assert laptop.fingerprint() != before
    desk("trust", "laptop", laptop.fingerprint())
    laptop("hub", "reload")
    await_link((desk, laptop))


def test_a_moved_identity_is_the_same_hub(desk: Person, laptop: Person, tmp_path: Path):
    joined(desk, laptop)
    laptop("identity", "export", str(tmp_path / "copy.pem"))
    laptop("hub", "stop")
    (laptop.home / "identity.pem").unlink()
    laptop("identity", "import", str(tmp_path / "copy.pem"))
    laptop("hub", "start")
    await_link((laptop, desk), (desk, laptop))


def test_a_hub_is_forgotten_with_what_waits_for_it(desk: Person, laptop: Person):
    joined(desk, laptop)
    laptop.add("web")
    desk.add("api")
    await_(lambda: desk.knows("web@laptop"), "the desk hears of web")
    laptop("hub", "stop")
    await_(lambda: not desk.link("laptop").up, "the link is down")
    sent = desk("send", "web@laptop", "too late", "--as", "api", "--json").json
    assert "known hubs: laptop" in desk("hub", "forget", "nowhere", "--yes", code=4).err
    assert "say --yes" in desk("hub", "forget", "laptop", code=2).err
    said = desk("hub", "forget", "LAPTOP", "--yes")
    assert "1 message ended as dead" in said.err
    assert desk.status.links == ()
    assert "laptop" not in desk("peers").out
    receipt = desk("trace", sent["msg_id"], "--json").json["receipts"][0]
    assert (receipt["state"], receipt["reason"]) == ("dead", "hub_forgotten")
    [notice] = desk.texts("api")
    assert "1 message from you to web@laptop ended unseen" in notice
    assert json.loads((desk.home / "known-hubs.json").read_text())["hubs"] == {}
    laptop("hub", "start")  # it knows the secret: a new hub, of the same name
    await_link((desk, laptop))


def test_a_forgotten_hub_that_is_distrusted_stays_so(desk: Person, laptop: Person):
    joined(desk, laptop)
    desk("distrust", "laptop")
    said = desk("hub", "forget", "laptop", "--yes")
    assert "it stays distrusted" in said.err
    laptop("hub", "reload")
    await_(lambda: "it distrusts this hub" in laptop.link("desk").trouble, "still refused")
    assert desk.status.links == ()


def test_who_is_blocked_on_another_hub_is_refused_and_told(desk: Person, laptop: Person):
    joined(desk, laptop)
    desk.add("api")
    await_(lambda: laptop.knows("api@desk"), "the laptop hears of api")
    desk("block", "web@laptop")
    laptop("send", "api@desk", "buy now", "--as", "web")
    [notice] = laptop.await_texts("web", 1)
    assert "api@desk" in notice
    assert "blocked" in notice
    desk("block", "web@laptop", "--off")
    laptop("send", "api@desk", "sorry", "--as", "web")
    assert desk.await_texts("api", 1) == ["sorry"]


def test_a_broken_bridge_json_stops_no_local_mail_and_doctor_says_what_is_wrong(laptop: Person):
    laptop.home.mkdir(mode=0o700)
    laptop.paths.bridge.write_text('{"hub_id": "laptop", "listen": 0, "peers": [],}')
    laptop("hub", "start")
    laptop.add("api")
    assert laptop("send", "api", "hello").out.split()[1] == "queued"
    assert laptop.texts("api") == ["hello"]
    await_(lambda: any("line 1, column 46" in each for each in laptop.status.problems), "it is told")
    found = {each["check"]: each for each in laptop("doctor", "--json", code=1).json["checks"]}
    assert found["bridge.json"]["level"] == "fail"
    assert "a comma before }" in found["bridge.json"]["says"]
    laptop.paths.bridge.write_text('{"hub_id": "laptop"}')
    laptop("hub", "reload")
    assert laptop.status.problems == ()


def test_the_names_of_other_hubs_are_completed(desk: Person, laptop: Person, monkeypatch: Any):
    from ecorelay.cli import complete

    joined(desk, laptop)
    for name, value in laptop.environ.items():
        if name.startswith("ECORELAY_"):
            monkeypatch.setenv(name, value)
    desk.add("api")
    await_(lambda: laptop.knows("api@desk"), "the laptop hears of api")
    assert complete.hubs("de") == ["desk"]
    assert complete.hubs("x") == []
    assert complete.peers("api@") == ["api@desk"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_an_invitation_pasted_at_a_terminal_is_not_shown(desk: Person, laptop: Person):
    import pty

    desk.init()
    line = desk("bridge-invite").out
    ours, theirs = pty.openpty()
    words = ("bridge-init", "--join", "--bind", "127.0.0.1", "--listen", "0")
    process = laptop.start(*words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    try:
        while b"not shown" not in shown:
            shown += os.read(ours, 4096)
        time.sleep(0.2)  # until the terminal's echo is off: what is typed before would be shown
        os.write(ours, line.encode())
        with suppress(OSError):  # Linux: nobody is at the other end any more
            while data := os.read(ours, 4096):
                shown += data
        assert process.wait(PATIENCE_S) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert line.strip().encode() not in shown
    assert laptop.bridge["secret"] == desk.bridge["secret"]
    assert laptop.bridge["secret"].encode() not in shown
