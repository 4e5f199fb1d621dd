"""What `ecorelay demo` plays: two assistants, one hub, and everything that usually goes wrong.

Each scene does real things with real processes, says what it does, and checks what came of it.
"""

from __future__ import annotations

import shutil
from typing import Any, Final

import trio

from ecorelay.cli import screen
from ecorelay.cli.demo_crash import crash
from ecorelay.cli.demo_mcp import Assistant, ToolFailed
from ecorelay.cli.demo_stage import CheckFailed, Stage

TOOLS: Final = 19
SCENE_S: Final = 40.0
"""Longest any scene may take before the demo says so and ends."""

FRONT: Final = "frontend"
BACK: Final = "backend"
THIRD: Final = "reviewer"
CHANNEL: Final = "notifications/claude/channel"


async def play(stage: Stage) -> None:
    """All scenes, in order.

    Raises:
        CheckFailed: something is not as it was said.
    """
    front, back = await _scene(_meet, stage)
    await _scene(_ask, stage, front, back)
    back = await _scene(_offline, stage, front, back)
    await _scene(_push, stage, front)
    await _scene(_group, stage, front, back)
    await _scene(crash, stage, front, back)


async def _scene(scene: Any, stage: Stage, *actors: Assistant) -> Any:
    try:
        with trio.move_on_after(SCENE_S):
            return await scene(stage, *actors)
    except (LookupError, TypeError, ValueError) as error:
        raise CheckFailed(f"every answer has the form it should have (found: {error!r})") from error
    raise CheckFailed(f"this scene is over within {SCENE_S:.0f} s")


# --- the scenes ------------------------------------------------------------------------------------------


async def _meet(stage: Stage) -> tuple[Assistant, Assistant]:
    tell = stage.narrator
    tell.scene("Two assistants start, each in its own project")
    started: dict[str, Assistant] = {}

    async def enter(name: str) -> None:
        tell.act(name, f"starts `ecorelay mcp` in projects/{name} and speaks MCP to it")
        started[name] = await stage.start(name)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter, FRONT)
        nursery.start_soon(enter, BACK)
    front, back = started[FRONT], started[BACK]
    hub = stage.hub()
    tell.back(
        f"no hub was running: one of them started it (pid {hub.pid}); "
        f"both were ready after {trio.current_time() - began:.1f} s"
    )
    counts = {len(front.tools), len(back.tools)}
    tell.check(counts == {TOOLS}, f"each has the {TOOLS} relay_* tools", f"{counts}")
    tell.act(FRONT, "relay_peers()")
    found = await front.call("relay_peers")
    names = [peer["name"] for peer in found["peers"]]
    tell.back(f"me: {found['me']}, peers: {', '.join(names)}, hub: {found['hub_id']}")
    tell.check(
        found["me"] == FRONT and names == [BACK] and found["peers"][0]["online"],
        "they found each other: one hub for both, though they started in the same moment",
        f"{found}",
    )
    return front, back


async def _ask(stage: Stage, front: Assistant, back: Assistant) -> None:
    tell = stage.narrator
    tell.scene("One asks, the other answers")
    question = "Which port does the API listen on?"
    tell.act(FRONT, f'relay_broadcast("{question}")')
    asked = await front.call("relay_broadcast", question=question)
    tell.back(f"asked {asked['peer_count']} peer, broadcast_id {asked['broadcast_id']}")
    tell.act(FRONT, "relay_inbox(wait=20): now it waits for answers")
    answers: dict[str, Any] = {}

    async def wait() -> None:
        answers.update(await front.call("relay_inbox", wait=20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        tell.act(BACK, "relay_inbox()")
        (ask,) = (await back.call("relay_inbox"))["messages"]
        tell.back(f"{ask['kind']} from {ask['from']}, {ask['age']}: {ask['text']}")
        tell.act(BACK, 'relay_reply(ask_id, "8080, see config/dev.toml")')
        began = trio.current_time()
        replied = await back.call("relay_reply", ask_id=ask["ask_id"], text="8080, see config/dev.toml")
    took = (trio.current_time() - began) * 1000
    (answer,) = answers["messages"]
    tell.act(FRONT, f"is woken: {answer['kind']} from {answer['from']}: {answer['text']}")
    tell.check(
        answer["msg_id"] == replied["msg_id"]
        and answer["reply_to"] == ask["ask_id"]
        and answer["broadcast_id"] == asked["broadcast_id"],
        f"the answer reached the one who asked, tagged with its question (in {took:.0f} ms)",
        f"{answer}",
    )


async def _offline(stage: Stage, front: Assistant, back: Assistant) -> Assistant:
    tell = stage.narrator
    tell.scene("One goes offline, and its mail waits")
    tell.act(BACK, "is closed, as when its terminal is")
    await back.leave()
    texts = ["The login page is done.", "It needs GET /me.", "Ключ — в .env, nicht im Repo. 鍵は .env に。"]
    statuses = []
    for text in texts:
        tell.act(FRONT, f'relay_send("{BACK}", "{text}")')
        statuses.append((await front.call("relay_send", to=BACK, text=text))["status"])
    tell.back(f"status: {', '.join(statuses)}")
    tell.check(
        statuses == ["queued"] * len(texts),
        "a receipt says what is known and no more: stored on disk for a peer that is away",
        f"{statuses}",
    )
    tell.act(FRONT, 'relay_send("backnd", ...): a slip of the pen')
    try:
        sent = await front.call("relay_send", to="backnd", text="hello?")
    except ToolFailed as refusal:
        tell.back(f"{refusal.code}: {refusal.message}")
        tell.check(
            refusal.code == "peer_not_found" and BACK in refusal.message,
            "a name nobody has is an error with the nearest name, not a message that is never read",
            f"{refusal}",
        )
    else:
        tell.check(False, "a name nobody has is an error", f"{sent}")
    tell.act(BACK, "starts again, in the same project")
    back = await stage.start(BACK)
    found = await back.call("relay_peers")
    tell.back(f"me: {found['me']}, unread: {found.get('unread', 0)}")
    mails = await back.read_all(len(texts))
    for mail in mails:
        tell.back(f"{mail['from']}, {mail['age']}: {mail['text']}")
    tell.check(
        found["me"] == BACK and [mail["text"] for mail in mails] == texts,
        "it is the same peer: its name, its mailbox, all 3 messages, in order, every letter of them",
        f"{found['me']}, {[mail['text'] for mail in mails]}",
    )
    return back


async def _push(stage: Stage, front: Assistant) -> None:
    tell = stage.narrator
    tell.scene("One is live: a message is put into its session")
    tell.act(THIRD, "starts `ecorelay mcp --carrier channel`, as for a Claude Code that takes channels")
    third = await stage.start(THIRD, "--carrier", "channel")
    tell.act(FRONT, f'relay_send("{THIRD}", "Please look at PR 7.", urgent=true)')
    sent = await front.call("relay_send", to=THIRD, text="Please look at PR 7.", urgent=True)
    pushed = await third.notification(CHANNEL)
    tell.act(THIRD, f"gets it without asking: {pushed['content']}")
    tell.back(f"status: {sent['status']}")
    tell.check(
        sent["status"] == "delivered" and pushed["meta"]["msg_id"] == sent["msg_id"],
        "delivered is said because its adapter confirmed the push",
        f"{sent}, {pushed}",
    )
    tell.act(THIRD, "is closed before it did anything about it, and starts again")
    await third.leave()
    third = await stage.start(THIRD)
    mails = await third.read_all(1)
    for mail in mails:
        tell.back(f"relay_inbox(): {mail['from']}, {mail['age']}: {mail['text']}")
    tell.check(
        [mail["msg_id"] for mail in mails] == [sent["msg_id"]],
        "pushed is not read: without a sign that it was seen, it is unread again",
        f"{mails}",
    )
    await third.leave()


async def _group(stage: Stage, front: Assistant, back: Assistant) -> None:
    tell = stage.narrator
    tell.scene("A group, with a history that waits for each member")
    tell.act(FRONT, f'relay_group_create("release", members=["{BACK}"])')
    made = await front.call("relay_group_create", name="release", members=[BACK])
    tell.back(f"members: {', '.join(made['members'])}")
    texts = ["Freeze is at noon.", "Tag is v1.4.0."]
    for text in texts:
        tell.act(FRONT, f'relay_group_send("release", "{text}")')
        await front.call("relay_group_send", group="release", text=text)
    tell.act(BACK, 'relay_group_history("release")')
    page = await back.call("relay_group_history", group="release")
    for line in page["messages"]:
        said = "" if line["type"] == "message" else f" ({line['type']})"
        tell.back(f"{line['from']}{said}: {line['text']}")
    again = await back.call("relay_group_history", group="release")
    words = [line["text"] for line in page["messages"] if line["type"] == "message"]
    tell.check(
        words == texts and not again["messages"],
        "it read what it had not seen; asked once more, there is nothing it has not",
        f"{words}, then {again['messages']}",
    )


def farewell(stage: Stage, seconds: float, program: str) -> None:
    """What to do next."""
    tell = stage.narrator
    bold = screen.styled(f"All {tell.checks} checks hold, in {seconds:.1f} s.", "green", "bold")
    gone = "" if stage.keep else ", which is removed now"
    tell.plain(f"\n{bold} Everything ran for real, in {stage.home}{gone}.\n")
    short = "ecorelay" if shutil.which("ecorelay") else program
    tell.plain("Next:")
    for what, command in (
        ("set up your assistants", f"{short} install"),
        ("or any other MCP client", f"{program} mcp"),
        ("then ask two assistants", '"Who else is there? Use relay_peers, and say hello."'),
        ("be a peer yourself", f"{short} peers"),
        ("", f'{short} send NAME "Hello from a human."'),
        ("", f"{short} inbox --wait 60"),
        ("look at the hub", f"{short} hub status"),
    ):
        tell.plain(f"  {what:<24} {command}")
