"""Copilot's extension, run by node beside an SDK and an adapter that do what a test says."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from ecorelay.paths import find_paths
from ecorelay_adapters.clients.assistant import Machine as Person
from ecorelay_adapters.clients.copilot import EXTENSION, rendered
from tests.e2e.stage import Machine

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None or sys.platform == "win32", reason="node is not installed, or there are no Unix sockets"
)

SESSION = "5f0c7a1e-0000-4000-8000-000000000001"
PATIENCE_S = 20.0
QUIET_S = 0.3
"""How long it is alone, where it must bear that."""
SDK = """
import * as fs from "node:fs"
import * as net from "node:net"
const state = JSON.parse(fs.readFileSync(process.env.FAKE_STATE))
const handlers = [], calls = new Map()
const test = net.connect(process.env.FAKE_CONTROL)
const say = (what) => test.write(JSON.stringify(what) + "\\n")
let n = 0
const ask = (call, options) => new Promise((resolve, reject) => {
  calls.set(++n, { resolve, reject }); say({ call, n, options })
})
let rest = ""
test.setEncoding("utf8").on("data", (data) => {
  const lines = (rest + data).split("\\n")
  rest = lines.pop()
  for (const said of lines.map((line) => JSON.parse(line))) {
    if (said.event) {
      if (!said.event.ephemeral) state.events.push(said.event)
      for (const handler of handlers) handler(said.event)
    }
    if (said.error) calls.get(said.n).reject(new Error(said.error))
    else if (said.n) calls.get(said.n).resolve(said.result)
    if (said.state) Object.assign(state, said.state)
    if (said.is) say({ is: said.is })
  }
})
const keep = () => fs.writeFileSync(process.env.FAKE_STATE, JSON.stringify(state))
const broken = () => { if (state.broken) throw new Error("unhandled method") }
export async function joinSession(config) {
  say({ joined: config })
  if (state.refuses) {
    await new Promise((resolve) => setTimeout(resolve, 300))
    throw new Error("no such session")
  }
  return {
    sessionId: process.env.SESSION_ID,
    on(handler) { handlers.push(handler) },
    send: (options) => ask("send", options),
    getEvents: async () => {
      const found = [...state.events]
      if (state.begins) { state.events.push(...state.begins); state.queue = { ...state.queue, items: [] } }
      return found
    },
    rpc: {
      metadata: {
        isProcessing: async () => { broken(); return { processing: state.processing } },
        getClientMetadata: async () => { broken(); return state.metadata },
        updateClientMetadata: async ({ set }) => {
          broken()
          if (state.slow) await ask("keep")
          if (Object.values(set).some((each) => Buffer.byteLength(each) > 16384)) throw new Error("too large")
          Object.assign(state.metadata, set); keep(); return state.metadata
        },
      },
      queue: { pendingItems: async () => { broken(); return state.queue } },
    },
  }
}
"""


class Lines:
    """The other end of a stream of JSON lines."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._heard: queue.Queue[Any] = queue.Queue()
        self.gone = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(OSError, ValueError), self._connection, self._connection.makefile("rb") as lines:
            for line in lines:
                self._heard.put(json.loads(line))
        self.gone.set()

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)

    def say(self, **what: Any) -> None:
        self.write(json.dumps(what).encode() + b"\n")

    def next(self, within: float = PATIENCE_S) -> Any:
        return self._heard.get(timeout=within)

    def close(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)


class Adapter(Lines):
    """What the extension talks to."""

    def expect(self, what: str, **params: Any) -> dict[str, Any]:
        """The next thing it says; its params, which hold these."""
        said = self.next()
        assert said["jsonrpc"] == "2.0"
        assert said["method"] == f"ecorelay/{what}", said
        assert said["params"]["session"] == SESSION
        assert said["params"] | params == said["params"], said
        found: dict[str, Any] = said["params"]
        return found

    def tell(self, what: str, session: str = SESSION, **params: Any) -> None:
        self.say(jsonrpc="2.0", method=f"ecorelay/{what}", params={"session": session, **params})

    def hand_over(self, id: str, text: str, *, urgent: bool = False, **more: Any) -> None:
        self.tell("hand_over", id=id, text=text, urgent=urgent, **more)


class Stage:
    """One session: the extension's process, its SDK, and the place where it finds an adapter."""

    def __init__(self, root: Path, environ: dict[str, str]) -> None:
        self.root = root
        self.home = root / "data"
        self.links = self.home / "links"
        self.environ = {"HOME": str(root), "PATH": os.environ["PATH"], **environ}
        self.folder = root / "ext"
        sdk = self.folder / "node_modules" / "@github" / "copilot-sdk"
        sdk.mkdir(parents=True)
        (sdk / "package.json").write_text('{"type": "module", "exports": {"./extension": "./extension.js"}}')
        (sdk / "extension.js").write_text(SDK)
        self.state: dict[str, Any] = {
            "events": [],
            "metadata": {},
            "queue": {"items": [], "steeringMessages": []},
            "processing": False,
        }
        self._short = Path(tempfile.mkdtemp(prefix="x-"))  # a socket's path must be short
        self._servers: list[socket.socket] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sdk: Lines = None  # type: ignore[assignment]
        self.met: list[Lines] = []
        self.socket = self._listen("adapter")
        self.control = self._listen("control")

    def _listen(self, name: str) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(self._short / name))
        server.listen()
        server.settimeout(PATIENCE_S)
        self._servers.append(server)
        return server

    @property
    def link(self) -> Path:
        return self.links / f"{sha256(SESSION.encode()).hexdigest()[:32]}.json"

    def show_link(self, **more: Any) -> None:
        self.links.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.link.write_text(json.dumps({"path": str(self._short / "adapter"), "pid": 1, **more}))

    def render(self, home: Path | None = None, **constants: int) -> None:
        environ = {"HOME": str(self.root), "ECORELAY_HOME": str(home or self.home)}
        machine = Person(environ=environ, paths=find_paths(environ), program=("x",), version="1.0")
        text = rendered(machine).decode()
        for name, value in constants.items():
            before = next(line for line in text.splitlines() if line.startswith(f"const {name} = "))
            text = text.replace(before, f"const {name} = {value};")
        (self.folder / EXTENSION).write_bytes(text.encode())

    def start(self, **state: Any) -> subprocess.Popen[bytes]:
        """Start the extension as Copilot does, and wait until it has joined the session."""
        if not (self.folder / EXTENSION).exists():
            self.render()
        self.state |= state
        (self.root / "state.json").write_text(json.dumps(self.state))
        assert NODE is not None
        process = subprocess.Popen(
            [NODE, str(self.folder / EXTENSION)],
            env={
                **self.environ,
                "SESSION_ID": SESSION,
                "FAKE_STATE": str(self.root / "state.json"),
                "FAKE_CONTROL": str(self._short / "control"),
            },
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        self.sdk = Lines(self.control.accept()[0])
        self.met.append(self.sdk)
        assert self.sdk.next() == {"joined": {}}
        return process

    def accept(self) -> Adapter:
        """The extension comes to the adapter."""
        adapter = Adapter(self.socket.accept()[0])
        self.met.append(adapter)
        return adapter

    def meet(self, **state: Any) -> Adapter:
        """Start it with an adapter there, which has heard who comes."""
        self.show_link()
        self.start(**state)
        adapter = self.accept()
        adapter.expect("session", directory=str(self.root), version="1.0")
        adapter.expect("status", busy=False)
        return adapter

    # --- what Copilot does --------------------------------------------------------------------------

    def event(self, type: str, agentId: str | None = None, **data: Any) -> None:
        agent = {} if agentId is None else {"agentId": agentId}
        self.sdk.say(event={"type": type, "data": data, **agent})

    def settle(self) -> None:
        """Wait until it has taken in all events."""
        mark = str(time.time_ns())
        self.sdk.say(**{"is": mark})
        assert self.sdk.next() == {"is": mark}

    def quiet(self, adapter: Adapter) -> None:
        """It has taken in all that was said, and has nothing to say to anybody."""
        self.settle()
        adapter.tell("canary", id="quiet")
        adapter.expect("canary_answer", id="quiet")
        self.settle()

    def sent(self, result: str | None = "m1") -> dict[str, Any]:
        """What it has Copilot send; which takes it as the message `result`."""
        asked = self.sdk.next()
        assert asked["call"] == "send"
        if result is not None:
            self.sdk.say(n=asked["n"], result=result)
        found: dict[str, Any] = asked
        return found

    def say_to_model(self, text: str, message: str) -> None:
        self.event("user.message", content=text, messageId=message)

    def model_call(self, outcome: str = "success") -> None:
        self.event("model.call_start")
        self.event("model.call_finished", outcome=outcome)

    def kept(self) -> dict[str, Any]:
        """What Copilot keeps with the session."""
        found: dict[str, Any] = json.loads((self.root / "state.json").read_text())
        return found

    def end(self) -> None:
        """End the extension as Copilot does; it must have said nothing."""
        process = self.processes[-1]
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=PATIENCE_S) == (b"", b"")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            out, err = process.communicate()
            assert (out, err) == (b"", b"")
        for each in self.met:
            each.close()
        for server in self._servers:
            server.close()
        shutil.rmtree(self._short)


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    made = []

    def make(**environ: str) -> Stage:
        made.append(Stage(tmp_path, environ))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


@pytest.fixture
def stage(make_stage: Callable[..., Stage]) -> Stage:
    return make_stage()


# --- finding each other --------------------------------------------------------------------------------


def test_it_comes_when_the_adapter_does_and_comes_back_when_that_went(stage: Stage):
    stage.start()
    time.sleep(QUIET_S)
    stage.show_link()
    first = stage.accept()
    first.expect("session", handed_over=[], seen=[])
    first.expect("status")
    first.close()
    began = time.monotonic()
    second = stage.accept()
    second.expect("session")
    assert time.monotonic() - began < 2
    second.expect("status")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"path": 3}', '{"path": "/nowhere/at/all"}', "\xff"]
)
def test_a_link_that_leads_nowhere_is_tried_again(stage: Stage, content: str):
    stage.links.mkdir(parents=True)
    stage.link.write_bytes(content.encode("latin-1"))
    stage.start()
    time.sleep(QUIET_S)
    assert stage.processes[-1].poll() is None
    stage.show_link()
    stage.accept().expect("session")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("foreign", ["link", "socket"])
def test_what_is_another_users_is_not_talked_to(stage: Stage, foreign: str):
    stage.show_link()
    other = stage.link if foreign == "link" else Path(stage.socket.getsockname())
    os.chown(other, 65534, 65534)
    stage.start()
    stage.socket.settimeout(1.5)
    with pytest.raises(TimeoutError):
        stage.accept()
    os.chown(other, 0, 0)
    stage.socket.settimeout(PATIENCE_S)
    stage.accept().expect("session")


def test_the_data_directory_is_the_one_it_was_told(make_stage: Callable[..., Stage], tmp_path: Path):
    stage = make_stage(ECORELAY_HOME=str(tmp_path / "elsewhere"))
    stage.meet()  # told at the installation: the adapter is too, whatever this terminal has


def test_without_one_told_it_follows_the_variable(make_stage: Callable[..., Stage], tmp_path: Path):
    stage = make_stage(ECORELAY_HOME=str(tmp_path / "data"))
    environ = {"HOME": str(tmp_path)}
    machine = Person(environ=environ, paths=find_paths(environ), program=("x",), version="1.0")
    (stage.folder / EXTENSION).write_bytes(rendered(machine))
    stage.meet()


def test_a_session_that_cannot_be_joined_ends_it_without_a_word(stage: Stage):
    process = stage.start(refuses=True)
    assert process.wait(PATIENCE_S) == 1


def test_it_ends_at_once_when_told(stage: Stage):
    adapter = stage.meet()
    stage.end()
    assert adapter.gone.wait(PATIENCE_S)


def pauses(stage: Stage, count: int) -> list[float]:
    """How long after the end of each short link the next one comes, in seconds."""
    found = []
    for _ in range(count):
        stage.accept().close()
        ended = time.monotonic()
        adapter = stage.accept()
        found.append(time.monotonic() - ended)
        adapter.close()
    return found


def test_who_is_thrown_out_each_time_comes_back_ever_later(stage: Stage):
    """Another process of the same session would be thrown out by each of these."""
    stage.show_link()
    stage.start()
    assert pauses(stage, 2)[1] >= 0.4  # half of 0.8 s


def test_after_a_link_that_lasted_it_comes_back_soon(stage: Stage):
    stage.render(STEADY_MS=300)
    stage.show_link()
    stage.start()
    pauses(stage, 2)
    adapter = stage.accept()
    adapter.expect("session")
    time.sleep(0.5)
    adapter.close()
    ended = time.monotonic()
    stage.accept()
    assert time.monotonic() - ended < 1.5  # 0.3 s, and not more than 1.6


# --- a link that is cut --------------------------------------------------------------------------------


def test_what_is_being_sent_when_the_link_is_cut_is_told_before_anything_else(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    first = stage.sent(None)
    adapter.close()
    again = stage.accept()
    time.sleep(QUIET_S)
    stage.sdk.say(n=first["n"], result="m1")
    again.expect("session", handed_over=["ecorelay:a"], seen=[])
    again.expect("status")
    stage.quiet(again)


def test_what_failed_while_the_link_was_cut_may_come_again(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    first = stage.sent(None)
    adapter.close()
    again = stage.accept()
    stage.sdk.say(n=first["n"], error="not now")
    again.expect("session", handed_over=[])
    again.expect("status")
    again.hand_over("ecorelay:a,b", "hello and more")
    assert stage.sent()["options"]["prompt"] == "hello and more"
    again.expect("handed_over", id="ecorelay:a,b")


def test_what_takes_too_long_to_be_waited_for_is_still_not_sent_twice(stage: Stage):
    stage.render(INTRODUCE_MS=200)
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    first = stage.sent(None)
    adapter.close()
    again = stage.accept()
    again.expect("session", handed_over=[])  # it may still fail
    again.expect("status")
    again.hand_over("ecorelay:a,b", "hello and more")
    stage.sdk.say(n=first["n"], result="m1")
    again.expect("handed_over", id="ecorelay:a")
    again.expect("handed_over", id="ecorelay:a")
    again.expect("refused", id="ecorelay:a,b", why="some of it was handed over before")
    stage.quiet(again)
    again.hand_over("ecorelay:b", "more")
    assert stage.sent("m2")["options"]["prompt"] == "more"


def test_a_link_that_is_cut_again_while_it_waits_does_no_harm(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    first = stage.sent(None)
    adapter.close()
    stage.accept().close()
    last = stage.accept()
    stage.sdk.say(n=first["n"], result="m1")
    last.expect("session", handed_over=["ecorelay:a"])
    last.expect("status")
    stage.quiet(last)


# --- what comes too late -------------------------------------------------------------------------------


def now_ms(after_s: float = 0) -> int:
    return int((time.time() + after_s) * 1000)


def test_what_comes_too_late_is_refused(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello", until=now_ms(-1))
    adapter.expect("refused", id="ecorelay:a", why="it came too late")
    stage.quiet(adapter)
    adapter.hand_over("ecorelay:a", "hello", until=now_ms(60))
    stage.sent()
    adapter.expect("handed_over", id="ecorelay:a")
    adapter.hand_over("ecorelay:a", "hello", until=now_ms(-1))  # it is there
    adapter.expect("handed_over", id="ecorelay:a")
    stage.quiet(adapter)


def test_what_had_to_wait_for_too_long_is_refused(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    first = stage.sent(None)
    adapter.hand_over("ecorelay:b", "again", until=now_ms(0.2))
    time.sleep(QUIET_S)
    stage.sdk.say(n=first["n"], result="m1")
    adapter.expect("handed_over", id="ecorelay:a")
    adapter.expect("refused", id="ecorelay:b", why="it came too late")
    stage.quiet(adapter)


def test_what_waited_for_too_long_to_be_noted_is_refused(stage: Stage):
    adapter = stage.meet(slow=True)
    adapter.hand_over("ecorelay:a", "hello", until=now_ms(1.5))
    asked = stage.sdk.next()
    assert asked["call"] == "keep"
    time.sleep(1.6)
    stage.sdk.say(n=asked["n"])
    adapter.expect("refused", id="ecorelay:a", why="it came too late")
    stage.quiet(adapter)


# --- handing over --------------------------------------------------------------------------------------


def test_what_is_handed_over_is_sent_once_and_seen_when_the_model_answered(stage: Stage):
    adapter = stage.meet()
    text = "quotes \" ' ` \\ \r\n\ttabs </user> 👩‍👧 \u202e" + "x" * 100_000
    adapter.hand_over("ecorelay:a", text)
    assert stage.sent()["options"] == {"prompt": text, "mode": "enqueue"}
    adapter.expect("handed_over", id="ecorelay:a")
    stage.say_to_model(text, "m1")
    adapter.expect("status", busy=True)
    stage.event("assistant.turn_start")
    stage.event("model.call_start")
    stage.quiet(adapter)
    stage.event("model.call_finished", outcome="success")
    adapter.expect("seen", id="ecorelay:a")
    stage.event("session.idle")
    adapter.expect("status", busy=False)
    stage.model_call()
    stage.quiet(adapter)


def test_urgent_ones_are_sent_at_once(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "stop", urgent=True)
    assert stage.sent()["options"] == {"prompt": "stop", "mode": "immediate"}


def test_the_first_brings_the_model_what_it_should_know_and_shows_the_person_the_message_alone(stage: Stage):
    adapter = stage.meet()
    adapter.tell("welcome", name="bob", text="You are bob in ecorelay.")
    adapter.hand_over("ecorelay:a", "hello")
    asked = stage.sent(None)
    assert asked["options"] == {
        "prompt": "You are bob in ecorelay.\n\nhello",
        "displayPrompt": "hello",
        "mode": "enqueue",
    }
    stage.sdk.say(n=asked["n"], error="not now")
    adapter.expect("refused")
    adapter.hand_over("ecorelay:b", "hello again")
    assert stage.sent()["options"]["prompt"] == "You are bob in ecorelay.\n\nhello again"
    adapter.expect("handed_over")
    stage.say_to_model("hello again", "m1")
    adapter.expect("status", busy=True)
    stage.model_call()
    adapter.expect("seen", id="ecorelay:b")
    adapter.hand_over("ecorelay:c", "and more")
    assert stage.sent("m2")["options"] == {"prompt": "and more", "mode": "enqueue"}
    adapter.expect("handed_over")
    stage.end()
    stage.state = stage.kept()
    stage.show_link()
    stage.start(queue={"items": [{"displayText": "and more"}], "steeringMessages": []})
    adapter = stage.accept()
    adapter.expect("session", handed_over=["ecorelay:b", "ecorelay:c"])
    adapter.expect("status")
    adapter.tell("welcome", name="bob", text="You are bob in ecorelay.")
    adapter.hand_over("ecorelay:d", "the last")
    assert stage.sent("m3")["options"]["prompt"] == "the last"


def test_several_stay_in_order_and_each_waits_for_the_one_before(stage: Stage):
    adapter = stage.meet()
    for name in "abc":
        adapter.hand_over(f"ecorelay:{name}", f"text {name}")
    first = stage.sent(None)
    stage.quiet(adapter)
    stage.sdk.say(n=first["n"], result="m1")
    assert stage.sent("m2")["options"]["prompt"] == "text b"
    assert stage.sent("m3")["options"]["prompt"] == "text c"
    for name in "abc":
        adapter.expect("handed_over", id=f"ecorelay:{name}")
    for number, name in enumerate("abc", 1):
        stage.say_to_model(f"text {name}", f"m{number}")
    adapter.expect("status", busy=True)
    stage.model_call()
    assert [adapter.expect("seen")["id"] for _ in "abc"] == [f"ecorelay:{name}" for name in "abc"]


def test_the_same_again_is_answered_and_not_sent(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    adapter.hand_over("ecorelay:a", "hello, put together anew")
    adapter.expect("handed_over", id="ecorelay:a")
    stage.say_to_model("hello", "m1")
    adapter.expect("status")
    stage.model_call()
    adapter.expect("seen")
    adapter.hand_over("ecorelay:a", "hello")
    adapter.expect("handed_over")
    adapter.expect("seen", id="ecorelay:a")
    stage.quiet(adapter)


def test_what_copilot_refuses_is_told_and_may_come_again(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sdk.say(n=stage.sent(None)["n"], error="Session was disconnected " + "x" * 1000)
    assert adapter.expect("refused", id="ecorelay:a")["why"].startswith("Session was disconnected")
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over", id="ecorelay:a")


def test_words_that_are_none_of_ours_change_nothing(stage: Stage):
    adapter = stage.meet()
    for line in (
        b"\n",
        b"nonsense\n",
        b"[]\n",
        b"null\n",
        b'{"method":"ecorelay/hand_over"}\n',
        b"\xff\xfe\n",
        b"{" * 5000 + b"\n",
    ):
        adapter.write(line)
    adapter.tell("hand_over", id=3, text="x")
    adapter.tell("hand_over", id="ecorelay:a", text=None)
    adapter.tell("hand_over", session="another", id="ecorelay:a", text="x")
    adapter.tell("unknown", id="x")
    adapter.tell("welcome", text=["You are bob"])
    stage.quiet(adapter)
    adapter.hand_over("ecorelay:a", "hello")
    assert stage.sent()["options"]["prompt"] == "hello"


def test_lines_in_pieces_are_read_and_an_endless_one_ends_the_link(stage: Stage):
    adapter = stage.meet()
    params = {"session": SESSION, "id": "ecorelay:a", "text": "é👩", "urgent": False}
    line = json.dumps(
        {"jsonrpc": "2.0", "method": "ecorelay/hand_over", "params": params}, ensure_ascii=False
    )
    for byte in line.encode() + b"\n":
        adapter.write(bytes([byte]))
    assert stage.sent()["options"]["prompt"] == "é👩"
    adapter.expect("handed_over")
    with suppress(OSError):
        for _ in range(80):
            adapter.write(b"x" * 65536)
    assert adapter.gone.wait(PATIENCE_S)
    stage.accept().expect("session", handed_over=["ecorelay:a"])


# --- evidence ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["error", "cancelled", "rejected"])
def test_a_request_that_failed_proves_nothing_and_the_next_does(stage: Stage, outcome: str):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.say_to_model("hello", "m1")
    adapter.expect("status", busy=True)
    stage.model_call(outcome)
    stage.quiet(adapter)
    stage.model_call()
    adapter.expect("seen", id="ecorelay:a")


def test_a_request_that_ran_already_proves_nothing(stage: Stage):
    adapter = stage.meet()
    stage.event("model.call_start")
    adapter.hand_over("ecorelay:a", "hello", urgent=True)
    stage.sent()
    adapter.expect("handed_over")
    stage.say_to_model("hello", "m1")
    adapter.expect("status", busy=True)
    stage.event("model.call_finished", outcome="success")
    stage.event("assistant.message", content="about something else")
    stage.quiet(adapter)
    stage.model_call()
    adapter.expect("seen", id="ecorelay:a")


def test_what_waits_in_the_queue_is_not_proved_by_the_turns_before_it(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.say_to_model("work long", "m0")
    adapter.expect("status", busy=True)
    stage.model_call()
    stage.model_call()
    stage.quiet(adapter)
    stage.say_to_model("hello", "m1")
    stage.model_call()
    adapter.expect("seen", id="ecorelay:a")


@pytest.mark.parametrize("stays", [True, False])
def test_after_an_interruption_it_is_looked_at_whether_it_still_stands_there(stage: Stage, stays: bool):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.say_to_model("hello", "m1")
    adapter.expect("status", busy=True)
    stage.model_call("cancelled")
    stage.event("abort", reason="user_abort")
    stage.settle()
    if not stays:
        stage.sdk.say(state={"events": []})  # the person took it back
    stage.say_to_model("something else", "m2")
    stage.model_call()
    if stays:
        adapter.expect("seen", id="ecorelay:a")
    else:
        stage.quiet(adapter)


def test_sub_agents_prove_nothing(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.event("user.message", agentId="sub", content="hello", messageId="x")
    stage.event("model.call_finished", agentId="sub", outcome="success")
    stage.quiet(adapter)
    stage.say_to_model("hello", "m1")
    adapter.expect("status", busy=True)
    stage.event("model.call_finished", agentId="sub", outcome="success")
    stage.event("assistant.idle", agentId="sub")
    stage.quiet(adapter)
    stage.model_call()
    adapter.expect("seen", id="ecorelay:a")


@pytest.mark.parametrize(
    "events",
    [
        ("session.error", "session.idle", "session.compaction_complete"),
        ("session.compaction_complete", "session.error", "session.idle"),
    ],
)
def test_what_only_a_summary_was_made_of_is_not_seen(stage: Stage, events: tuple[str, ...]):
    adapter = stage.meet()
    for number, name in enumerate("ab", 1):
        adapter.hand_over(f"ecorelay:{name}", f"text {name}")
        stage.sent(f"m{number}")
        adapter.expect("handed_over")
    stage.say_to_model("text a", "m1")
    adapter.expect("status", busy=True)
    for event in events:  # it exceeds what the model can take
        stage.event(event)
    adapter.expect("status", busy=False)
    stage.say_to_model("text b", "m2")
    adapter.expect("status", busy=True)
    stage.event("session.compaction_complete", success=True)  # in the turn: its own message stays
    stage.model_call()
    adapter.expect("seen", id="ecorelay:b")
    stage.quiet(adapter)


def test_what_copilot_asks_on_its_own_account_proves_nothing(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.say_to_model("hello", "m1")
    adapter.expect("status", busy=True)
    stage.event("assistant.turn_start", interactionId="i1")
    stage.event("model.call_finished", outcome="success", interactionId="aside")
    stage.quiet(adapter)
    stage.event("model.call_finished", outcome="success", interactionId="i1")
    adapter.expect("seen", id="ecorelay:a")


def test_a_copilot_that_does_not_tell_how_requests_end_is_believed_its_answer(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.event("assistant.message", content="before")
    stage.quiet(adapter)
    stage.say_to_model("hello", "m1")
    adapter.expect("status", busy=True)
    stage.event("assistant.message", content="after")
    adapter.expect("seen", id="ecorelay:a")


def test_a_message_that_another_extension_changed_is_known_by_its_id(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent("m1")
    adapter.expect("handed_over")
    stage.say_to_model("HELLO", "m1")
    adapter.expect("status", busy=True)
    stage.model_call()
    adapter.expect("seen", id="ecorelay:a")


def test_a_message_that_is_said_before_copilot_answers_is_known(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    adapter.hand_over("ecorelay:b", "again")
    asked = stage.sent(None)
    stage.say_to_model("HELLO", "m1")
    adapter.expect("status", busy=True)
    stage.model_call()
    stage.settle()
    stage.sdk.say(n=asked["n"], result="m1")
    adapter.expect("seen", id="ecorelay:a")
    adapter.expect("handed_over", id="ecorelay:a")
    adapter.expect("seen", id="ecorelay:a")
    asked = stage.sent(None)
    stage.say_to_model("again", "m2")
    stage.settle()
    stage.sdk.say(n=asked["n"], result="m2")
    adapter.expect("handed_over", id="ecorelay:b")
    stage.model_call()
    adapter.expect("seen", id="ecorelay:b")


def test_two_of_the_same_text_are_each_proved_by_their_own(stage: Stage):
    adapter = stage.meet()
    for number, name in enumerate("ab", 1):
        adapter.hand_over(f"ecorelay:{name}", "same")
        stage.sent(f"m{number}")
        adapter.expect("handed_over")
    stage.say_to_model("same", "m2")
    adapter.expect("status", busy=True)
    stage.model_call()
    adapter.expect("seen", id="ecorelay:b")
    stage.quiet(adapter)
    stage.say_to_model("same", "m1")
    stage.model_call()
    adapter.expect("seen", id="ecorelay:a")


# --- another process -----------------------------------------------------------------------------------


def test_an_extension_that_is_loaded_again_knows_what_the_one_before_did(stage: Stage):
    adapter = stage.meet()
    for number, name in enumerate(("seen", "said", "queued", "urgent", "lost"), 1):
        adapter.hand_over(f"ecorelay:{name}", f"text {name}")
        stage.sent(f"m{number}")
        adapter.expect("handed_over")
    stage.say_to_model("text seen", "m1")
    adapter.expect("status")
    stage.model_call()
    adapter.expect("seen")
    stage.end()
    said = [
        {"type": "user.message", "data": {"content": "text seen", "messageId": "m1"}},
        {"type": "assistant.message", "data": {"content": "ok"}},
        {"type": "user.message", "data": {"content": "text said", "messageId": "m2"}},
        {"type": "assistant.message", "agentId": "sub", "data": {"content": "ok"}},
    ]
    stage.state = stage.kept()
    stage.show_link()
    stage.start(
        events=said,
        queue={
            "items": [{"displayText": "text queued", "messageId": "m3"}],
            "steeringMessages": ["text urgent"],
        },
        processing=True,
    )
    adapter = stage.accept()
    found = adapter.expect("session", seen=["ecorelay:seen"])
    assert found["handed_over"] == [f"ecorelay:{name}" for name in ("seen", "said", "queued", "urgent")]
    adapter.expect("status", busy=True)
    stage.model_call()
    adapter.expect("seen", id="ecorelay:said")
    stage.say_to_model("text queued", "m3")
    stage.model_call()
    adapter.expect("seen", id="ecorelay:queued")
    adapter.hand_over("ecorelay:lost", "text lost")
    assert stage.sent("m9")["options"]["prompt"] == "text lost"


def test_what_leaves_the_queue_while_it_is_looked_for_is_not_lost(stage: Stage):
    adapter = stage.meet()
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.end()
    stage.state = stage.kept()
    stage.show_link()
    stage.start(
        queue={"items": [{"displayText": "hello", "messageId": "m1"}], "steeringMessages": []},
        begins=[{"type": "user.message", "data": {"content": "hello", "messageId": "m1"}}],
    )
    stage.accept().expect("session", handed_over=["ecorelay:a"])


def test_what_is_kept_with_the_session_has_a_bound_and_holds_no_text(stage: Stage):
    adapter = stage.meet()
    for number in range(250):
        adapter.hand_over(f"ecorelay:{number:026}" + f",{number}x" * (number % 7), f"secret {number}")
        stage.sent(f"m{number}")
        adapter.expect("handed_over")
    [(name, kept)] = stage.kept()["metadata"].items()
    assert name == "ecorelay/handed_over"
    assert "secret" not in kept
    assert 10_000 < len(kept) <= 16_384
    assert len(json.loads(kept)) > 100
    assert json.loads(kept)[-1][0].startswith(f"ecorelay:{249:026}")
    stage.end()
    adapter.close()
    stage.state = stage.kept()
    stage.start(events=[{"type": "user.message", "data": {"content": f"secret {n}"}} for n in range(250)])
    found = stage.accept().expect("session")
    assert len(found["handed_over"]) == len(json.loads(kept)) <= 200


@pytest.mark.parametrize("kept", ["nonsense", "{}", "[1, [2], [null, null, 3]]", 3])
def test_a_record_that_cannot_be_read_is_none(stage: Stage, kept: Any):
    adapter = stage.meet(metadata={"ecorelay/handed_over": kept})
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")


def test_a_copilot_without_these_doors_is_handed_mail_all_the_same(stage: Stage):
    adapter = stage.meet(broken=True)
    adapter.hand_over("ecorelay:a", "hello")
    stage.sent()
    adapter.expect("handed_over")
    stage.say_to_model("hello", "m1")
    adapter.expect("status", busy=True)
    stage.model_call()
    adapter.expect("seen")
    adapter.tell("canary", id="c1")
    adapter.expect("canary_answer", id="c1", ok=False)


def test_the_canary_shows_that_the_session_answers(stage: Stage):
    adapter = stage.meet()
    adapter.tell("canary", id="c1")
    adapter.expect("canary_answer", id="c1", ok=True, says="the session answers, it is idle, 0 queued")
    stage.quiet(adapter)


def test_while_background_work_goes_on_the_session_is_idle(stage: Stage):
    adapter = stage.meet()
    stage.event("assistant.turn_start")
    adapter.expect("status", busy=True)
    stage.event("assistant.turn_end")
    stage.event("assistant.turn_start")
    stage.quiet(adapter)
    stage.event("assistant.idle")  # session.idle comes when the last shell has ended
    adapter.expect("status", busy=False)


# --- with a real adapter and a real hub ----------------------------------------------------------------


async def test_mail_goes_all_the_way_and_is_seen(tmp_path: Path):
    machine, stage = Machine(tmp_path), Stage(tmp_path / "copilot", {})
    environ = {"COPILOT_AGENT_SESSION_ID": SESSION}
    try:
        async with machine.assistant("ann") as ann:
            async with machine.assistant("bob", arguments=("--carrier", "copilot"), environ=environ) as bob:
                await ann.call("send", to="bob", text="before it is there")
                stage.render(machine.home)
                await trio.to_thread.run_sync(stage.start)
                first = await trio.to_thread.run_sync(stage.sent)
                assert 'You are "bob" in ecorelay' in first["options"]["prompt"]
                sent = await ann.call("send", to="bob", text="lighthouse", urgent=True)
                asked = await trio.to_thread.run_sync(lambda: stage.sent("m2"))
                text = asked["options"]["prompt"]
                assert "lighthouse" in text

                async def state() -> str:
                    trace = json.loads((await machine.cli("trace", sent["msg_id"], "--json")).stdout)
                    found: str = trace["receipts"][0]["state"]
                    return found

                await until(state, "pushed")
                stage.say_to_model(text, "m2")
                stage.model_call()
                await until(state, "seen")
                [row] = [peer for peer in (await ann.call("peers"))["peers"] if peer["name"] == "bob"]
                assert row["online"]
                assert "Traceback" not in bob.stderr
    finally:
        stage.close()
        machine.close()


async def until(state: Callable[[], Awaitable[str]], wanted: str) -> None:
    with trio.fail_after(PATIENCE_S):
        while (found := await state()) != wanted:
            assert found in ("unread", "pushed")
            await trio.sleep(0.05)
