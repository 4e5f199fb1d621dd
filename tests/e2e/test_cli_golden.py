"""What `--json` prints of a real hub, against golden files: what is in one of them never goes away.

After a change that is meant: UPDATE_GOLDEN=1 pytest tests/e2e/test_cli_golden.py, and read the difference.
"""

import json
import os
import re
from functools import partial
from pathlib import Path

import pytest

from tests.helpers.command_line import CommandLine, run_here

GOLDEN = Path(__file__).parent / "golden" / "cli"
ID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")
FINGERPRINT = re.compile(r"SHA256:(?!A{43})[A-Za-z0-9+/]{43}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
DIFFERS = {"pid", "uptime_s", "db_bytes", "version", "connections", "counters"}
"""What is another each time."""


def normalised(found, home):
    """What is the same in each run."""
    match found:
        case dict():
            return {
                key: "<number>" if key in DIFFERS else normalised(value, home) for key, value in found.items()
            }
        case list():
            return [normalised(each, home) for each in found]
        case str():
            text = TIME.sub("<time>", ID.sub("<id>", FINGERPRINT.sub("<fingerprint>", found)))
            return text.replace(str(home.parent), "<tmp>").replace(str(Path.home()), "~")
        case _:
            return found


def compare(name, found, home):
    found = normalised(found, home)
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def home(tmp_path):
    command_line = CommandLine(tmp_path / "home")
    yield tmp_path / "home"
    command_line.end_hub()


def test_every_command_prints_the_object_of_its_golden_file(home, monkeypatch, capsys):
    settings = {"ECORELAY_KEEP_ALIVE": "yes", "ECORELAY_HUB_ID": "here"}
    here = partial(run_here, home, monkeypatch, capsys, **settings)

    def golden(name, *words, code=0):
        said = here(*words, "--json")
        assert said.code == code, said
        compare(name, said.json, home)
        return said.json

    golden("config_path", "config", "path")
    golden("config_show", "config", "show")
    golden("peers_add", "peers", "add", "api")
    here("peers", "add", "web")
    golden("peers", "peers", "--match", "a")
    sent = golden("send", "send", "api", "which port?")
    golden("inbox", "inbox", "--as", "api")
    golden("inbox_empty", "inbox", "--as", "api", "--wait", "0.1", code=5)
    golden("reply", "reply", sent["msg_id"], "8080", "--as", "api")
    golden("trace", "trace", sent["msg_id"])
    golden("broadcast", "broadcast", "anybody?")
    golden("broadcast_wait", "broadcast", "anybody?", "--wait", "1")
    golden("rooms", "rooms")
    golden("groups_create", "groups", "create", "team", "api", "web")
    line = golden("groups_send", "groups", "send", "team", "noon")
    golden("trace_group", "trace", line["msg_id"])
    golden("groups", "groups", "--as", "web")
    golden("groups_info", "groups", "info", "team", "--as", "web")
    golden("groups_history", "groups", "history", "team", "--as", "web")
    golden("groups_remove", "groups", "remove", "team", "web")
    golden("groups_invite", "groups", "invite", "team", "web")
    golden("groups_leave", "groups", "leave", "team", "--as", "web")
    golden("groups_delete", "groups", "delete", "team")
    golden("block", "block", "web")
    golden("blocks", "block")
    assert here("send", "ada", "not now", "--as", "web").code == 1
    golden("block_off", "block", "web", "--off")
    golden("peers_forget", "peers", "forget", "web")
    backup = golden_backup(here, home)
    assert backup["size"] == (home.parent / "copy.db").stat().st_size
    golden("bridge_init", "bridge-init", "--listen", "0", "--peer", "desk=192.0.2.1:9700")
    (home.parent / "token").write_text("a token of the relay that nobody guesses 0123")
    at_relay = ("bridge-init", "--relay", "ws://127.0.0.1:1", "--token-from", str(home.parent / "token"))
    golden("bridge_init_relay", *at_relay)
    golden("identity_show", "identity", "show")
    golden("identity_export", "identity", "export", str(home.parent / "copy.pem"))
    golden("identity_import", "identity", "import", str(home.parent / "copy.pem"))
    # Before the hub reads it: how far it came with a peer that is dialed would be another each time.
    (home / "bridge.json").write_text('{"hub_id": "here", "listen": 0}')
    golden("trust", "trust", "desk", "SHA256:" + "A" * 43)
    golden("distrust", "distrust", "desk")
    golden("bridge_check", "bridge-check")
    golden("hub_reload", "hub", "reload")
    golden("hub_forget", "hub", "forget", "desk", "--yes")
    (home / "bridge.json").write_text("{")
    golden("bridge_check_mistakes", "bridge-check", code=2)
    golden("relay_server_init", "relay-server", "--init", str(home.parent / "relay-config.json"))
    golden("relay_server_check", "relay-server", str(home.parent / "relay-config.json"), "--check")
    (home.parent / "relay-config.json").write_text('{"port": 0}')
    golden("relay_server_mistakes", "relay-server", str(home.parent / "relay-config.json"), "--check", code=2)
    golden("hub_status", "hub", "status")
    golden("purge", "purge", "--older", "0s", "--yes")
    first = json.loads(here("logs", "--json").out.splitlines()[0])
    compare("logs", first | {"fields": dict.fromkeys(sorted(first["fields"]), "…")}, home)


def golden_backup(here, home):
    found = here("backup", str(home.parent / "copy.db"), "--json")
    assert found.code == 0, found
    compare("backup", found.json | {"size": "<number>"}, home)
    assert (home.parent / "copy.db").stat().st_mode & 0o777 == 0o600
    return found.json
