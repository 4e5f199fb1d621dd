"""OpenCode's plugin without OpenCode: node runs it, a script plays OpenCode, the test plays our process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from ecorelay_adapters.clients.opencode import MARK, render
from ecorelay_adapters.tools import TOOLS

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

PATIENCE_S = 10.0
QUIET_S = 0.3
"""What does not happen within this time does not happen."""

# Plays our process: what it is told goes to the test, what the test says comes out.
CHILD = """
import os, socket, sys, threading
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[1])
def out():
    while data := link.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    os._exit(3)
threading.Thread(target=out, daemon=True).start()
while data := os.read(0, 65536):
    link.sendall(data)
"""

# Plays OpenCode: does what lines on stdin say, and tells what it is asked.
DRIVER = """
import { createInterface } from "node:readline"
import { Ecorelay } from "./plugin.mjs"
const say = (what) => process.stdout.write(JSON.stringify(what) + "\\n")
const known = JSON.parse(process.env.KNOWN ?? "{}") // session -> what is known of it
const history = JSON.parse(process.env.HISTORY ?? "{}") // session -> its messages
const refusals = {} // session -> why no prompt is taken
const holds = {} // what OpenCode does not answer for now: "get", "prompt"
const held = async (what) => { while (holds[what]) await new Promise((resolve) => setTimeout(resolve, 5)) }
const missing = { error: { name: "NotFoundError", data: { message: "Session not found" } } }
const session = {
  get: async ({ path }) => {
    const found = known[path.id] ? { data: known[path.id] } : missing
    if (holds.get) say({ asked: path.id })
    await held("get")
    return found
  },
  list: async () => ({ data: Object.values(known) }),
  messages: async ({ path }) => ({ data: history[path.id] ?? [] }),
  promptAsync: async ({ path, body }) => {
    say({ prompt: path.id, body })
    const waited = holds.prompt
    await held("prompt")
    if (waited) say({ answers: path.id })
    return refusals[path.id] ? { error: { data: { message: refusals[path.id] } } } : { data: undefined }
  },
}
if (process.env.DOOR) delete session.promptAsync
const serverUrl = new URL(process.env.DOOR ?? "http://x/")
const place = (directory) => ({ client: { session }, directory, serverUrl })
const hooks = [await Ecorelay(place("/projects/shop"))]
const aborts = {}
say({ tools: Object.fromEntries(Object.entries(hooks[0].tool).map(([name, tool]) => [name, tool.args])) })
for await (const line of createInterface({ input: process.stdin })) {
  const { act, ...given } = JSON.parse(line)
  if (act === "set") {
    Object.assign({ known, history, refusals, holds }[given.what], given.values)
    say({ set: given.what })
  } else if (act === "again") hooks.push(await Ecorelay(place(given.directory)))
  else if (act === "event") for (const each of hooks) await each.event({ event: given.event })
  else if (act === "hook") {
    const { name, input, output } = given
    hooks[0][name](input, output).then(() => say({ hook: name, output }))
  } else if (act === "abort") aborts[given.call].abort()
  else if (act === "call") {
    const { call, tool, args, sessionID } = given
    aborts[call] = new AbortController()
    const context = { sessionID, callID: call, abort: aborts[call].signal }
    hooks[0].tool[tool].execute(args, context).then(
      (result) => say({ call, result }),
      (error) => say({ call, error: String(error) }),
    )
  }
}
process.exit(0)
"""


class Lines:
    """JSON objects, as they come from one of the two."""

    def __init__(self, chunks: Callable[[], bytes]) -> None:
        self._found: Queue[Any] = Queue()
        self.reader = threading.Thread(target=self._read, args=(chunks,), daemon=True)
        self.reader.start()

    def _read(self, chunks: Callable[[], bytes]) -> None:
        left = b""
        with suppress(OSError, ValueError):
            while chunk := chunks():
                *lines, left = (left + chunk).split(b"\n")
                for line in lines:
                    self._found.put(json.loads(line))
        self._found.put(None)

    def next(self) -> Any:
        """The next one; None: that was all."""
        try:
            return self._found.get(timeout=PATIENCE_S)
        except Empty:
            raise AssertionError("nothing came") from None

    def silent(self) -> bool:
        """Whether nothing comes."""
        with suppress(Empty):
            raise AssertionError(self._found.get(timeout=QUIET_S))
        return True


class Child(Lines):
    """One process of ours, as the test plays it."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        link.settimeout(None)
        super().__init__(lambda: link.recv(65536))

    def say(self, method: str, **params: Any) -> None:
        self.send({"jsonrpc": "2.0", "method": f"ecorelay/{method}", "params": params})

    def send(self, message: object) -> None:
        self._link.sendall(json.dumps(message).encode() + b"\n")

    def answer(self, request: Any, result: object) -> None:
        self.send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def begin(self) -> Child:
        """The handshake."""
        request = self.next()
        assert request["method"] == "initialize"
        assert request["params"]["protocolVersion"] == "2025-11-25"
        assert request["params"]["clientInfo"]["name"] == "opencode"
        self.answer(request, {"protocolVersion": "2025-11-25"})
        assert self.next()["method"] == "notifications/initialized"
        return self

    def hears(self, method: str, **params: Any) -> None:
        """It is told this next."""
        found = self.next()
        assert (found["method"], found["params"]) == (f"ecorelay/{method}", params)

    def meets(self, session: str = "ses_a", *, busy: bool = False, **more: Any) -> None:
        """It is told of a session next."""
        there = {"directory": "/projects/shop", "handed_over": [], "seen": [], **more}
        self.hears("session", session=session, **there)
        self.hears("status", session=session, busy=busy)

    def end(self) -> None:
        """It ends."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self.reader.join(PATIENCE_S)
        self._link.close()


class OpenCode:
    """The plugin in node, with OpenCode around it as the test plays it."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        words: list[str] | None = None,
        known: dict[str, Any] | None = None,
        history: dict[str, Any] | None = None,
        door: str = "",
        **constants: int,
    ) -> None:
        self._children: list[Child] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "s"))
        self._listener.listen()
        self._listener.settimeout(PATIENCE_S)
        (folder / "child.py").write_text(CHILD)
        words = words or [sys.executable, "-S", "-E", str(folder / "child.py"), str(folder / "s")]
        text = render(words, {"ECORELAY_HOME": "/somewhere"}, "1.0")
        for name, value in constants.items():
            before = next(line for line in text.splitlines() if line.startswith(f"const {name} = "))
            text = text.replace(before, f"const {name} = {value}")
        (folder / "plugin.mjs").write_text(text)
        (folder / "driver.mjs").write_text(DRIVER)
        assert NODE is not None
        environ = {"KNOWN": json.dumps(known or {}), "HISTORY": json.dumps(history or {})}
        self._process = subprocess.Popen(
            [NODE, str(folder / "driver.mjs"), *arguments],
            cwd=folder,
            env={**environ, **({"DOOR": door} if door else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        handle = self._process.stdout
        self._lines = Lines(lambda: handle.readline())
        self.tools = self._lines.next()["tools"]

    def child(self) -> Child:
        """The next process of ours that it starts."""
        link, _ = self._listener.accept()
        self._children.append(Child(link))
        return self._children[-1]

    def starts_none(self) -> bool:
        self._listener.settimeout(QUIET_S)
        with pytest.raises(TimeoutError):
            self._listener.accept()
        self._listener.settimeout(PATIENCE_S)
        return True

    def next(self) -> Any:
        return self._lines.next()

    def silent(self) -> bool:
        return self._lines.silent()

    def do(self, act: str, **given: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"act": act, **given}).encode() + b"\n")
        self._process.stdin.flush()

    def set(self, what: str, values: object) -> None:
        """What it knows from now on: `known` sessions, their `history`, its `refusals`, what it `holds`."""
        self.do("set", what=what, values=values)
        assert self.next() == {"set": what}

    def event(self, type: str, **properties: Any) -> None:
        self.do("event", event={"type": type, "properties": properties})

    def creates(self, session: str = "ses_a", **more: Any) -> None:
        info = {"id": session, "directory": "/projects/shop", **more}
        self.set("known", {session: info})
        self.event("session.created", sessionID=session, info=info)

    def call(self, name: str = "c1", session: str = "ses_a", tool: str = "relay_peers", **args: Any) -> None:
        self.do("call", call=name, tool=tool, args=args, sessionID=session)

    def hook(self, name: str, input: object, output: object) -> None:
        self.do("hook", name=name, input=input, output=output)

    # What happens when a prompt was taken, and answered.

    def stores(self, body: Any, message: str = "msg_1", session: str = "ses_a") -> None:
        [part] = body["parts"]
        self.event("message.part.updated", part={**part, "messageID": message, "sessionID": session})

    def asks(
        self, *ids: str, answer: str = "msg_2", session: str = "ses_a", summary: bool | None = None
    ) -> None:
        """A request to the model is made with these hand-overs in it."""
        info: dict[str, Any] = {
            "id": answer,
            "role": "assistant",
            "sessionID": session,
            "time": {},
            "summary": summary,
        }
        self.event("message.updated", sessionID=session, info=info)
        self.hook(
            "experimental.chat.messages.transform",
            {},
            {
                "messages": [
                    {
                        "info": {"id": "msg_1", "role": "user", "sessionID": session},
                        "parts": [{"type": "text", "text": "…", "metadata": {"ecorelay": id}}],
                    }
                    for id in ids
                ]
            },
        )
        assert self.next()["hook"] == "experimental.chat.messages.transform"

    def answered(self, answer: str = "msg_2", session: str = "ses_a") -> None:
        """The model's server took the request."""
        part = {"type": "step-start", "messageID": answer, "sessionID": session}
        self.event("message.part.updated", sessionID=session, part=part)

    def close(self) -> None:
        """It leaves, without a word on stderr."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr, self._listener:
            try:
                with suppress(BrokenPipeError):
                    process.stdin.close()
                assert process.wait(PATIENCE_S) in (0, -signal.SIGKILL)
                assert process.stderr.read() == b""
            finally:
                process.kill()
                process.wait()
                self._lines.reader.join(PATIENCE_S)
                for each in self._children:
                    each.end()

    def kill(self) -> None:
        self._process.kill()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., OpenCode]]:
    made: list[OpenCode] = []

    def start(*arguments: str, **options: Any) -> OpenCode:
        made.append(OpenCode(tmp_path, *arguments, **options))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def opencode(make: Callable[..., OpenCode]) -> OpenCode:
    return make()


@pytest.fixture
def child(opencode: OpenCode) -> Child:
    """With the session ses_a."""
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    return child


def hand_over(
    child: Child, opencode: OpenCode, id: str = "ecorelay:m1", text: str = "a word", **more: Any
) -> Any:
    """Up to the prompt that it makes."""
    child.say("hand_over", session="ses_a", id=id, text=text, urgent=False, **more)
    found = opencode.next()
    assert found["prompt"] == "ses_a"
    return found["body"]


# --- the file -------------------------------------------------------------------------------------------


def test_it_is_recognised_and_holds_all_tools_as_they_are(opencode: OpenCode, tmp_path: Path):
    assert (tmp_path / "plugin.mjs").read_text().startswith(MARK)
    assert {name: {"properties": args} for name, args in opencode.tools.items()} == {
        tool.name: {"properties": tool.input_schema["properties"]} for tool in TOOLS
    }
    opencode.hook("tool.definition", {"toolID": "relay_inbox"}, {"description": "d", "jsonSchema": {}})
    [inbox] = [tool for tool in TOOLS if tool.name == "relay_inbox"]
    assert opencode.next()["output"] == {"description": "d", "jsonSchema": inbox.input_schema}
    opencode.hook("tool.definition", {"toolID": "bash"}, {"jsonSchema": {"a": 1}})
    assert opencode.next()["output"] == {"jsonSchema": {"a": 1}}


# --- tools ----------------------------------------------------------------------------------------------


def test_a_call_says_whose_it_is_and_gives_the_result(opencode: OpenCode, child: Child):
    opencode.call(match="x")
    request = child.next()
    assert request["method"] == "tools/call"
    assert request["params"] == {
        "name": "relay_peers",
        "arguments": {"match": "x"},
        "_meta": {"ecorelay/session": "ses_a", "progressToken": request["id"]},
    }
    child.answer(request, {"content": [{"type": "text", "text": '{"ok":true}'}]})
    assert opencode.next() == {"call": "c1", "result": '{"ok":true}'}


def test_a_subagent_calls_for_its_session(opencode: OpenCode, child: Child):
    opencode.creates("ses_b", parentID="ses_a")
    opencode.set("known", {"ses_c": {"id": "ses_c", "parentID": "ses_b"}})
    opencode.call(session="ses_c")
    assert child.next()["params"]["_meta"]["ecorelay/session"] == "ses_a"
    opencode.event("session.deleted", info={"id": "ses_b"})
    assert child.silent()


def test_a_call_of_an_unknown_session_says_so(opencode: OpenCode, child: Child):
    opencode.call(session="ses_x")
    assert "not known" in opencode.next()["result"]


def test_a_call_that_is_given_up_is_cancelled(opencode: OpenCode, child: Child):
    opencode.call(wait=600)
    request = child.next()
    opencode.do("abort", call="c1")
    found = child.next()
    assert (found["method"], found["params"]) == (
        "notifications/cancelled",
        {"requestId": request["id"]},
    )
    assert "cancelled" in opencode.next()["result"]
    child.answer(request, {"content": []})  # too late: nothing happens
    assert opencode.silent()


def test_a_call_is_told_that_the_process_ended_and_the_next_one_works(opencode: OpenCode, child: Child):
    opencode.call()
    child.next()
    child.end()
    assert "may have been done or not" in opencode.next()["result"]
    opencode.call("c2")  # waits for the new one
    again = opencode.child().begin()
    again.meets()
    again.answer(again.next(), {"content": [{"type": "text", "text": "done"}]})
    assert opencode.next() == {"call": "c2", "result": "done"}


def test_a_call_whose_process_ends_while_it_waits_goes_to_the_next(opencode: OpenCode, child: Child):
    body = hand_over(child, opencode)
    child.end()
    second = opencode.child().begin()
    opencode.call()  # the second hears of the session after what is being handed over
    assert second.silent()
    second.end()
    third = opencode.child()
    opencode.stores(body)
    assert opencode.silent()
    third.begin()
    third.meets(handed_over=["ecorelay:m1"])
    third.answer(third.next(), {"content": [{"type": "text", "text": "done"}]})
    assert opencode.next() == {"call": "c1", "result": "done"}


def test_a_call_does_not_wait_for_what_is_being_handed_over(opencode: OpenCode, child: Child):
    hand_over(child, opencode)
    opencode.call()
    child.answer(child.next(), {"content": [{"type": "text", "text": "done"}]})
    assert opencode.next() == {"call": "c1", "result": "done"}


def test_a_call_that_is_given_up_while_it_waits_is_not_made(opencode: OpenCode, child: Child):
    child.end()
    again = opencode.child()
    opencode.call()
    opencode.do("abort", call="c1")
    again.begin().meets()
    assert opencode.next() == {"call": "c1", "result": "cancelled; nothing was done."}
    assert again.silent()


def test_a_call_of_a_session_that_is_deleted_while_it_waits_says_so(opencode: OpenCode, child: Child):
    child.end()
    again = opencode.child()
    opencode.call()
    opencode.event("session.deleted", info={"id": "ses_a"})
    again.begin()
    assert "not known" in opencode.next()["result"]
    assert again.silent()


def inside(folder: Path, script: str) -> list[str]:
    """What a script prints that sees into the plugin, and its `relay`."""
    assert NODE is not None
    text = render(["/nowhere/ecorelay"], {}, "1.0")
    (folder / "plugin.mjs").write_text(f"{text}\nconst relay = new Relay()\n{script}\nprocess.exit(0)\n")
    done = subprocess.run([NODE, str(folder / "plugin.mjs")], capture_output=True, timeout=PATIENCE_S)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def test_without_a_process_nothing_waits_for_its_answer(tmp_path: Path):
    script = """
relay.child.process = undefined
await relay.child.request("tools/call", {}).catch((error) => console.log(error.message))
relay.sessions.set("s", { id: "s", known: true, isMet: () => true })
console.log(await relay.call({}, "relay_peers", {}, { sessionID: "s" }))
Object.assign(relay.sessions.get("s"), { isMet: () => false })
relay.child.isReady = async () => true
console.log((await relay.call({}, "relay_peers", {}, { sessionID: "s" })).split(" (")[0])
"""
    said = "ecorelay is not running; nothing was done"
    often = "ecorelay ends again and again"
    assert inside(tmp_path, script) == [said, f"{said}.", often]


def test_a_protocol_error_is_told(opencode: OpenCode, child: Child):
    opencode.call()
    child.send({"jsonrpc": "2.0", "id": child.next()["id"], "error": {"code": -32602, "message": "bad"}})
    assert opencode.next()["result"].startswith("bad")


def test_without_a_program_a_call_says_why(make: Callable[..., OpenCode]):
    opencode = make(words=["/nowhere/ecorelay"], PAUSE_MIN_MS=10)
    opencode.creates()
    opencode.call()
    found = opencode.next()["result"]
    assert "ENOENT" in found
    assert "ecorelay doctor" in found


def test_a_process_that_ended_is_noticed_while_another_holds_its_output(
    make: Callable[..., OpenCode], tmp_path: Path
):
    program = [sys.executable, "-S", "-E", str(tmp_path / "child.py"), str(tmp_path / "s")]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    ends = os.open(pipe, os.O_RDWR)
    try:
        opencode = make(words=["/bin/sh", "-c", f'cat {pipe} & exec "$@"', "sh", *program])
        child = opencode.child().begin()
        opencode.creates()
        child.meets()
        opencode.call()
        child.next()
        child.end()
        assert "may have been done or not" in opencode.next()["result"]
        opencode.child().begin().meets()
    finally:
        os.close(ends)


def test_a_process_that_says_nothing_is_ended(make: Callable[..., OpenCode]):
    opencode = make(START_MS=200)
    assert opencode.child().next()["method"] == "initialize"
    opencode.child().begin()


def test_a_result_that_was_cut_is_whole_again(opencode: OpenCode, child: Child):
    opencode.call()
    child.answer(child.next(), {"content": [{"type": "text", "text": "long"}]})
    opencode.next()
    cut = {"title": "", "output": "l… truncated", "metadata": {"truncated": True, "outputPath": "/x"}}
    opencode.hook("tool.execute.after", {"tool": "relay_peers", "callID": "c1"}, cut)
    found = opencode.next()["output"]
    assert found["output"] == "long"
    assert found["metadata"]["truncated"] is False
    opencode.hook("tool.execute.after", {"tool": "bash", "callID": "c9"}, {"output": "other"})
    assert opencode.next()["output"] == {"output": "other"}


# --- push -----------------------------------------------------------------------------------------------


def test_what_is_handed_over_is_a_prompt_of_the_sessions_own_agent_and_model(
    opencode: OpenCode, child: Child
):
    info = {"agent": "plan", "model": {"id": "big", "providerID": "maker", "variant": "high"}}
    opencode.set("known", {"ses_a": {"id": "ses_a", **info}})
    body = hand_over(child, opencode, text="it's\n</x> \u202e👩‍👩‍👧‍👦")
    assert body == {
        "agent": "plan",
        "model": {"providerID": "maker", "modelID": "big"},
        "variant": "high",
        "parts": [
            {"type": "text", "text": "it's\n</x> \u202e👩‍👩‍👧‍👦", "metadata": {"ecorelay": "ecorelay:m1"}}
        ],
    }
    assert child.silent()  # it is not there yet
    opencode.stores(body)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")


def test_of_an_older_opencode_the_agent_is_that_of_the_last_prompt(opencode: OpenCode, child: Child):
    said = {"id": "msg_0", "role": "user", "sessionID": "ses_a", "agent": "plan"}
    model = {"providerID": "maker", "modelID": "big"}
    opencode.event("message.updated", info={**said, "model": model})
    body = hand_over(child, opencode)
    assert (body["agent"], body["model"]) == ("plan", model)


def test_it_is_seen_when_the_models_server_took_a_request_with_it(opencode: OpenCode, child: Child):
    opencode.stores(hand_over(child, opencode))
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    opencode.answered()  # of no request
    opencode.asks("ecorelay:other")
    opencode.answered()
    opencode.asks("ecorelay:m1", answer="msg_3")
    opencode.answered("msg_2")  # of another one
    assert child.silent()
    opencode.answered("msg_3")
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    opencode.asks("ecorelay:m1", answer="msg_4")
    opencode.answered("msg_4")
    assert child.silent()


def test_a_summary_of_the_conversation_shows_nothing(opencode: OpenCode, child: Child):
    opencode.stores(hand_over(child, opencode))
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    opencode.asks("ecorelay:m1", summary=True)
    opencode.answered()
    assert child.silent()


def test_the_same_is_put_once_and_answered_again(opencode: OpenCode, child: Child):
    body = hand_over(child, opencode)
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
    assert opencode.silent()
    opencode.stores(body)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    opencode.asks("ecorelay:m1")
    opencode.answered()
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    assert opencode.silent()


def test_one_is_put_after_the_other(opencode: OpenCode, child: Child):
    first = hand_over(child, opencode)
    child.say("hand_over", session="ses_a", id="ecorelay:m2", text="next", urgent=True)
    assert opencode.silent()
    opencode.stores(first)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    assert opencode.next()["body"]["parts"][0]["text"] == "next"


def test_what_opencode_refuses_is_refused_and_may_come_again(opencode: OpenCode, child: Child):
    opencode.set("refusals", {"ses_a": "no room"})
    hand_over(child, opencode)
    child.hears("refused", session="ses_a", id="ecorelay:m1", why="no room")
    opencode.set("refusals", {"ses_a": ""})
    opencode.stores(hand_over(child, opencode))
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")


def test_what_never_got_there_is_refused(make: Callable[..., OpenCode]):
    opencode = make(TAKEN_MS=200)
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    hand_over(child, opencode)
    child.hears("refused", session="ses_a", id="ecorelay:m1", why="OpenCode did not take it")


def test_what_got_there_unheard_is_found_in_the_conversation(make: Callable[..., OpenCode]):
    opencode = make(TAKEN_MS=500)
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    body = hand_over(child, opencode)
    opencode.set("history", {"ses_a": [said("msg_1", body["parts"])]})
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")


def late(make: Callable[..., OpenCode], **constants: int) -> tuple[OpenCode, Child, Any]:
    """A hand-over that OpenCode took, and did not store in time; and its body."""
    opencode = make(TAKEN_MS=200, **constants)
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    body = hand_over(child, opencode)
    child.hears("refused", session="ses_a", id="ecorelay:m1", why="OpenCode did not take it")
    return opencode, child, body


def test_what_is_stored_late_is_told_and_seen_and_not_put_again(make: Callable[..., OpenCode]):
    opencode, child, body = late(make)
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
    child.hears("refused", session="ses_a", id="ecorelay:m1", why="OpenCode did not take it")
    assert opencode.silent()
    opencode.stores(body)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    opencode.asks("ecorelay:m1")
    opencode.answered()
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    assert opencode.silent()
    child.end()
    opencode.child().begin().meets(handed_over=["ecorelay:m1"], seen=["ecorelay:m1"])


def test_what_is_stored_late_and_unheard_is_found_when_it_comes_again(make: Callable[..., OpenCode]):
    opencode, child, body = late(make)
    history = [said("msg_1", body["parts"]), said("msg_2", [STEP], role="assistant", parentID="msg_1")]
    opencode.set("history", {"ses_a": history})
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    assert opencode.silent()


@pytest.mark.parametrize("stored", [True, False])
def test_what_holds_a_message_that_was_put_before_is_not_put(make: Callable[..., OpenCode], stored: bool):
    """Mail may be put together anew when a process of ours was lost, or OpenCode was late."""
    opencode, child, body = late(make)
    if stored:
        opencode.stores(body)
        child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.say("hand_over", session="ses_a", id="ecorelay:m0,m1", text="two words", urgent=False)
    if stored:
        child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.hears("refused", session="ses_a", id="ecorelay:m0,m1", why="some of it was handed over before")
    assert opencode.silent()
    hand_over(child, opencode, "ecorelay:m0")


def test_opencode_that_does_not_answer_holds_up_nothing_for_long(make: Callable[..., OpenCode]):
    opencode = make(TAKEN_MS=200)
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    opencode.set("holds", {"prompt": True})
    opencode.set("refusals", {"ses_a": "no room"})
    hand_over(child, opencode)
    child.hears("refused", session="ses_a", id="ecorelay:m1", why="OpenCode did not take it")
    opencode.set("holds", {"prompt": False})
    assert opencode.next() == {"answers": "ses_a"}
    opencode.set("refusals", {"ses_a": ""})
    hand_over(child, opencode)  # it was refused, so it may come again


def now_ms(after_s: float = 0) -> int:
    return int((time.time() + after_s) * 1000)


def test_what_comes_too_late_is_refused(opencode: OpenCode, child: Child):
    mail = {"session": "ses_a", "id": "ecorelay:m1", "text": "a word", "urgent": False}
    child.say("hand_over", **mail, until=now_ms(-1))
    child.hears("refused", session="ses_a", id="ecorelay:m1", why="it came too late")
    assert opencode.silent()
    opencode.stores(hand_over(child, opencode, until=now_ms(60)))
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.say("hand_over", **mail, until=now_ms(-1))  # it is there
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")


def test_what_had_to_wait_for_too_long_is_refused(opencode: OpenCode, child: Child):
    first = hand_over(child, opencode)
    child.say("hand_over", session="ses_a", id="ecorelay:m2", text="x", urgent=False, until=now_ms(0.2))
    assert opencode.silent()
    opencode.stores(first)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.hears("refused", session="ses_a", id="ecorelay:m2", why="it came too late")
    assert opencode.silent()


@pytest.mark.parametrize("limit", ["the adapter's", "ours"])
def test_where_the_session_was_looked_at_for_too_long_nothing_is_put(
    make: Callable[..., OpenCode], limit: str
):
    opencode = make(**({"TAKEN_MS": 200} if limit == "ours" else {}))
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    opencode.set("holds", {"get": True})
    until = now_ms(60 if limit == "ours" else 0.5)
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="x", urgent=False, until=until)
    assert opencode.next() == {"asked": "ses_a"}
    why = "it came too late"
    if limit == "ours":
        child.hears("refused", session="ses_a", id="ecorelay:m1", why="OpenCode did not take it")
        opencode.set("holds", {"get": False})
    else:
        time.sleep(0.6)
        opencode.set("holds", {"get": False})
        child.hears("refused", session="ses_a", id="ecorelay:m1", why=why)
    assert opencode.silent()
    assert child.silent()
    hand_over(child, opencode)  # it may come again


def test_where_something_was_undone_nothing_is_put(opencode: OpenCode, child: Child):
    opencode.set("known", {"ses_a": {"id": "ses_a", "revert": {"messageID": "msg_0"}}})
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
    found = child.next()
    assert found["method"] == "ecorelay/refused"
    assert "undone" in found["params"]["why"]
    assert opencode.silent()


def test_for_an_unknown_session_it_is_refused(opencode: OpenCode, child: Child):
    child.say("hand_over", session="ses_x", id="ecorelay:m1", text="a word", urgent=False)
    child.hears("refused", session="ses_x", id="ecorelay:m1", why="no such session")


def test_a_canary_leaves_no_trace(opencode: OpenCode, child: Child):
    child.say("canary", session="ses_a", id="k1")
    child.hears("canary_answer", session="ses_a", id="k1", ok=True, says="the session answers")
    opencode.set("known", {"ses_a": None})
    child.say("canary", session="ses_a", id="k2")
    child.hears("canary_answer", session="ses_a", id="k2", ok=False, says="Session not found")
    assert opencode.silent()


@pytest.mark.parametrize("status", [200, 404])
def test_where_there_is_no_such_client_it_goes_through_the_newer_door(
    make: Callable[..., OpenCode], status: int
):
    asked: list[tuple[str, Any]] = []

    class Door(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Door) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        opencode = make(door=f"http://127.0.0.1:{server.server_address[1]}/")
        child = opencode.child().begin()
        opencode.creates()
        child.meets()
        child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
        if status == 200:
            child.hears("handed_over", session="ses_a", id="ecorelay:m1")
        else:
            child.hears("refused", session="ses_a", id="ecorelay:m1", why="OpenCode answers 404")
        server.shutdown()
    assert asked == [("/api/session/ses_a/prompt", {"text": "a word", "delivery": "queue"})]


# --- a turn that was interrupted ----------------------------------------------------------------------------


def busy(opencode: OpenCode, child: Child, type: str = "busy") -> None:
    opencode.event("session.status", sessionID="ses_a", status={"type": type})
    if type != "idle":
        child.hears("status", session="ses_a", busy=True)


@pytest.mark.parametrize("tried", [False, True])
def test_mail_that_no_request_held_is_asked_for_once(make: Callable[..., OpenCode], tried: bool):
    opencode = make(KICK_MS=100)
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    busy(opencode, child)
    opencode.stores(hand_over(child, opencode))
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    if tried:
        opencode.asks("ecorelay:m1")
    assert opencode.silent()  # while the turn runs
    busy(opencode, child, "idle")
    child.hears("status", session="ses_a", busy=False)
    if not tried:
        [part] = opencode.next()["body"]["parts"]
        assert part["synthetic"] is True
    opencode.event("session.idle", sessionID="ses_a")
    assert opencode.silent()


def test_a_turn_that_begins_meanwhile_is_not_asked_to_go_on(make: Callable[..., OpenCode]):
    opencode = make(KICK_MS=100)
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    busy(opencode, child)
    opencode.stores(hand_over(child, opencode))
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    opencode.set("holds", {"get": True})
    busy(opencode, child, "idle")
    child.hears("status", session="ses_a", busy=False)
    assert opencode.next() == {"asked": "ses_a"}
    busy(opencode, child)
    opencode.set("holds", {"get": False})
    assert opencode.silent()
    busy(opencode, child, "idle")  # it was interrupted too: now it is asked for
    assert opencode.next()["body"]["parts"][0]["synthetic"] is True


# --- sessions -----------------------------------------------------------------------------------------------


def test_busy_and_idle_are_told_as_they_change(opencode: OpenCode, child: Child):
    for type in ("busy", "retry", "busy"):
        opencode.event("session.status", sessionID="ses_a", status={"type": type})
    child.hears("status", session="ses_a", busy=True)
    opencode.event("session.idle", sessionID="ses_a")
    opencode.event("session.status", sessionID="ses_a", status={"type": "idle"})
    child.hears("status", session="ses_a", busy=False)
    assert child.silent()


@pytest.mark.parametrize(
    "event",
    [
        {"type": "session.status", "properties": {"sessionID": "ses_a", "status": {"type": "idle"}}},
        {"type": "session.updated", "properties": {"info": {"id": "ses_a"}}},
        {"type": "message.updated", "properties": {"info": {"id": "msg_1", "sessionID": "ses_a"}}},
        {"type": "todo.updated", "properties": {"sessionID": "ses_a"}},
    ],
    ids=lambda event: event["type"],
)
def test_any_event_brings_its_session(make: Callable[..., OpenCode], event: Any):
    opencode = make(known={"ses_a": {"id": "ses_a", "directory": "/projects/other"}})
    child = opencode.child().begin()
    opencode.do("event", event=event)
    child.meets(directory="/projects/other")


def test_a_tool_call_and_a_prompt_bring_their_session(make: Callable[..., OpenCode]):
    opencode = make(known={id: {"id": id} for id in ("ses_a", "ses_b")})
    child = opencode.child().begin()
    opencode.call()
    child.meets()
    assert child.next()["method"] == "tools/call"
    opencode.hook("chat.message", {"sessionID": "ses_b"}, {})
    child.meets("ses_b")


def test_events_about_nothing_we_know_do_nothing(opencode: OpenCode):
    child = opencode.child().begin()
    opencode.event("server.connected")
    opencode.event("session.idle", sessionID="ses_x")
    opencode.event("session.deleted", info={"id": "ses_x"})
    opencode.event("session.error", sessionID=7)
    opencode.do("event", event={"type": "file.edited"})
    assert child.silent()


@pytest.mark.parametrize("way", ["deleted", "archived"])
def test_a_session_that_is_deleted_or_archived_is_gone(opencode: OpenCode, child: Child, way: str):
    if way == "deleted":
        opencode.event("session.deleted", info={"id": "ses_a"})
    else:
        opencode.event("session.updated", info={"id": "ses_a", "time": {"archived": 1}})
    child.hears("gone", session="ses_a")


def test_a_session_that_is_deleted_while_a_process_is_still_to_hear_of_it_is_not_told(
    make: Callable[..., OpenCode],
):
    opencode = make(TAKEN_MS=1500)
    child = opencode.child().begin()
    opencode.creates()
    child.meets()
    hand_over(child, opencode)
    child.end()
    again = opencode.child().begin()
    opencode.event("session.deleted", info={"id": "ses_a"})
    again.hears("gone", session="ses_a")
    time.sleep(1.6)  # the hand-over is over
    assert again.silent()


def test_one_process_serves_all_directories_and_every_reload(opencode: OpenCode, child: Child):
    opencode.do("again", directory="/projects/other")
    opencode.do("again", directory="/projects/shop")
    opencode.creates("ses_b", directory="/projects/other")
    child.meets("ses_b", directory="/projects/other")
    assert opencode.starts_none()
    assert child.silent()


def said(id: str, parts: list[Any], **info: Any) -> dict[str, Any]:
    """A message in a conversation."""
    return {"info": {"id": id, "role": "user", **info}, "parts": parts}


def ours(id: str) -> list[Any]:
    """Its parts, if it holds a hand-over."""
    return [{"type": "text", "text": "…", "metadata": {"ecorelay": id}}]


STEP = {"type": "step-start"}
HISTORY = [
    said("msg_0", [{"type": "text", "text": "hi", "metadata": None}]),
    said("msg_1", ours("ecorelay:m1")),
    said("msg_2", [STEP], role="assistant", parentID="msg_1"),
    said("msg_3", ours("ecorelay:m2")),
    said("msg_4", [], role="assistant", parentID="msg_3"),  # its request failed
    said("msg_5", [STEP], role="assistant", parentID="msg_3", summary=True),
    said("msg_6", ours("ecorelay:m3")),
]


def test_what_a_session_was_given_before_us_is_told_first(make: Callable[..., OpenCode]):
    opencode = make(known={"ses_a": {"id": "ses_a"}}, history={"ses_a": HISTORY}, KICK_MS=100)
    child = opencode.child().begin()
    opencode.event("session.updated", info={"id": "ses_a"})
    child.meets(handed_over=["ecorelay:m1", "ecorelay:m2", "ecorelay:m3"], seen=["ecorelay:m1"])
    # The last one came just before an end: no request held it.
    assert opencode.next()["body"]["parts"][0]["synthetic"] is True
    child.say("hand_over", session="ses_a", id="ecorelay:m1", text="a word", urgent=False)
    child.hears("handed_over", session="ses_a", id="ecorelay:m1")
    child.hears("seen", session="ses_a", id="ecorelay:m1")
    assert opencode.silent()


def test_a_new_process_is_told_what_the_last_one_handed_over(opencode: OpenCode, child: Child):
    body = hand_over(child, opencode)
    child.end()
    again = opencode.child().begin()
    assert again.silent()  # it is being handed over
    opencode.stores(body)
    again.meets(handed_over=["ecorelay:m1"])
    opencode.asks("ecorelay:m1")
    opencode.answered()
    again.hears("seen", session="ses_a", id="ecorelay:m1")


# --- opened again -------------------------------------------------------------------------------------------

KNOWN = {
    "ses_old": {"id": "ses_old", "directory": "/projects/shop", "time": {"updated": 1}},
    "ses_a": {"id": "ses_a", "directory": "/projects/shop", "time": {"updated": 3}},
    "ses_sub": {
        "id": "ses_sub",
        "parentID": "ses_a",
        "directory": "/projects/shop",
        "time": {"updated": 4},
    },
    "ses_b": {"id": "ses_b", "directory": "/projects/other", "time": {"updated": 5}},
}


@pytest.mark.parametrize(
    ("arguments", "session"),
    [
        (["-c"], "ses_a"),
        (["--continue"], "ses_a"),
        (["-s", "ses_old"], "ses_old"),
        (["--session", "ses_old"], "ses_old"),
        (["--session=ses_old"], "ses_old"),
        (["-c", "--fork"], None),
        (["-s", "ses_x"], None),
        (["-s"], None),
        ([], None),
    ],
    ids=lambda found: " ".join(found or ["none"]) if isinstance(found, list) else str(found),
)
def test_a_session_the_command_line_opens_again_is_there_at_once(
    make: Callable[..., OpenCode], arguments: list[str], session: str | None
):
    opencode = make(*arguments, known=KNOWN)
    child = opencode.child().begin()
    if session is None:
        assert child.silent()
    else:
        child.meets(session)
        opencode.do("again", directory="/projects/other")  # not for each directory
        assert child.silent()


# --- what the model is told -------------------------------------------------------------------------------

SYSTEM = "experimental.chat.system.transform"


def test_the_model_is_told_once_who_it_is_in_the_same_words(opencode: OpenCode, child: Child):
    opencode.hook(SYSTEM, {"sessionID": "ses_a"}, {"system": ["You are a coder.", "Rules"]})
    assert opencode.silent()  # it waits for them
    child.say("welcome", session="ses_a", name="shop", text="You are shop.")
    told = ["You are a coder.", "Rules\n\nYou are shop."]
    assert opencode.next()["output"] == {"system": told}
    opencode.hook(SYSTEM, {"sessionID": "ses_a"}, {"system": ["You are a coder.", "Rules"]})
    assert opencode.next()["output"] == {"system": told}
    opencode.hook(SYSTEM, {"sessionID": "ses_a"}, {"system": told})  # by another copy of the plugin
    assert opencode.next()["output"] == {"system": told}


@pytest.mark.parametrize(
    ("session", "system"),
    [
        ("ses_a", ["You are a title generator. You output ONLY a title."]),
        ("ses_b", ["You are a subagent."]),
        (None, ["You make agents."]),
        ("ses_a", []),
    ],
)
def test_others_are_not_told(opencode: OpenCode, child: Child, session: str | None, system: list[str]):
    opencode.creates("ses_b", parentID="ses_a")
    child.say("welcome", session="ses_a", name="shop", text="You are shop.")
    time.sleep(0.1)
    opencode.hook(SYSTEM, {"sessionID": session} if session else {}, {"system": system})
    assert opencode.next()["output"] == {"system": system}


def test_a_turn_does_not_wait_long_for_what_does_not_come(make: Callable[..., OpenCode]):
    opencode = make(WELCOME_MS=200)
    opencode.child().begin()
    opencode.creates()
    for _ in range(2):
        opencode.hook(SYSTEM, {"sessionID": "ses_a"}, {"system": ["You are a coder."]})
        assert opencode.next()["output"] == {"system": ["You are a coder."]}


# --- the link -------------------------------------------------------------------------------------------


def test_noise_from_our_process_does_no_harm(opencode: OpenCode, child: Child):
    child._link.sendall(b'\n{"jsonrpc"\nnull\n[]\n"x"\n{"method":"ecorelay/hand_over"}\n\xff\n')
    child.say("hand_over", session="ses_a", id=7, text="x")
    child.say("welcome", session="ses_a")
    child.say("new thing", session="ses_a")
    child.send({"jsonrpc": "2.0", "id": 5, "method": "sampling/createMessage"})
    assert child.next()["error"]["code"] == -32601
    hand_over(child, opencode)


def test_long_lines_come_whole(opencode: OpenCode, child: Child):
    text = "é漢👩" * 100_000
    assert hand_over(child, opencode, text=text)["parts"][0]["text"] == text


def test_it_is_started_again_with_growing_pauses(make: Callable[..., OpenCode]):
    opencode = make(PAUSE_MIN_MS=100, PAUSE_MAX_MS=400)
    starts = []
    for _ in range(5):
        opencode.child().end()
        starts.append(time.monotonic())
    pauses = [after - before for before, after in pairwise(starts)]
    assert max(pauses[:1]) < 2
    assert min(pauses[2:]) >= 0.2  # half of 400 ms
    assert opencode.child().begin()


@pytest.mark.parametrize("lived_ms", [100, 60_000])
def test_after_a_long_life_it_is_started_again_soon(tmp_path: Path, lived_ms: int):
    script = f"""
relay.child.failures = 6
relay.child.began = Date.now() - {lived_ms}
globalThis.setTimeout = (act, ms) => (console.log(ms), {{}})
relay.child.ended(relay.child.process, "it ended")
console.log(relay.child.failures)
"""
    pause, failures = map(float, inside(tmp_path, script))
    if lived_ms == 60_000:
        assert 100 <= pause <= 300
        assert failures == 0
    else:
        assert 6400 <= pause <= 19200
        assert failures == 7


def test_it_ends_with_opencode_however_that_ends(make: Callable[..., OpenCode]):
    opencode = make()
    child = opencode.child().begin()
    opencode.kill()
    assert child.next() is None
