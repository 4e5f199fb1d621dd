"""The official TypeScript SDK as the client: most assistants are built on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stage import Machine

PACKAGE = "@modelcontextprotocol/sdk@1"
SCRIPT = Path(__file__).with_name("typescript_client.cjs")
INSTALL_S = 240
PATIENCE_S = 60

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def sdk() -> Path:
    """A folder with the SDK in its node_modules; installed once, outside the repository."""
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        pytest.skip("node and npm are not installed")
    clients = os.environ.get("CLIENTS_DIR") or Path.home() / ".cache" / "assistant-clients"
    folder = Path(clients) / "mcp-typescript"
    folder.mkdir(parents=True, exist_ok=True)
    fcntl = pytest.importorskip("fcntl")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules" / "@modelcontextprotocol" / "sdk" / "package.json").exists():
            (folder / "package.json").write_text('{"private": true}\n')
            command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
            try:
                subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
            except (subprocess.SubprocessError, OSError) as error:
                pytest.skip(f"{PACKAGE} cannot be installed: {error}")
    return folder


def use(machine: Machine, sdk: Path, name: str, calls: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """One client from its start to its end; what it saw."""
    ended = subprocess.run(
        ["node", str(SCRIPT), str(sdk), sys.executable, "-m", "ecorelay", "mcp"],
        cwd=machine.directory(name),
        env=machine.environ | {"RELAY_PEER_ID": name, "CALLS": json.dumps(calls)},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"Traceback" not in ended.stderr
    seen: dict[str, Any] = json.loads(ended.stdout)
    assert seen["problems"] == []
    return seen


def test_the_typescript_sdk_lists_and_calls_the_tools(machine: Machine, sdk: Path):
    text = "zwei\nZeilen, 鍵 😀 \u2028" * 500
    listed = json.loads((SCRIPT.parents[1] / "adapters" / "golden" / "tools.json").read_text())
    use(machine, sdk, "ben", [])
    seen = use(
        machine,
        sdk,
        "ann",
        [
            ("relay_peers", {}),
            ("relay_send", {"to": "ben", "text": text}),
            ("relay_send", {"to": "nobody", "text": "x"}),
            ("relay_join", {"room": "den"}),
            ("relay_rooms", {}),
            ("relay_group_create", {"name": "team", "members": ["ben"]}),
            ("relay_group_send", {"group": "team", "text": text}),
            ("relay_group_history", {"group": "team"}),
        ],
    )
    assert seen["server"]["name"] == "ecorelay"
    assert 'You are "ann"' in seen["instructions"]
    assert [tool["name"] for tool in seen["tools"]] == [tool["name"] for tool in listed]
    peers, sent, refused, joined, rooms, made, said, _ = seen["results"]
    assert [peer["name"] for peer in peers["fields"]["peers"]] == ["ben"]
    assert sent["fields"]["status"] == "queued"
    assert (refused["isError"], refused["fields"]["code"]) == (True, "peer_not_found")
    assert joined["fields"]["members"] == ["ann"]
    assert rooms["fields"]["rooms"] == [{"name": "den", "members": ["ann"]}]
    assert made["fields"]["members"] == ["ann", "ben"]
    assert said["fields"]["ok"] is True
    seen = use(machine, sdk, "ben", [("relay_inbox", {}), ("relay_inbox", {}), ("relay_group_list", {})])
    first, second, groups = (result["fields"] for result in seen["results"])
    assert [mail["text"] for mail in first["messages"]] == [text]
    assert second["messages"] == []
    assert groups["groups"] == [{"name": "team", "unread_count": 2}]
