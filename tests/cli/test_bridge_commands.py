"""`bridge-init`, `bridge-invite`, `bridge-check`, `identity`, `trust` where no hub runs: bad input first."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import stat
import sys
from functools import partial

import pytest

from ecorelay import wire
from ecorelay.cli import bridge, bridge_commands, invitation
from ecorelay.errors import RelayError
from ecorelay.paths import Paths
from tests.helpers.command_line import run_here

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
OTHER = "SHA256:" + "A" * 43


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def here(home, monkeypatch, capsys):
    return partial(run_here, home, monkeypatch, capsys, ECORELAY_HUB_ID="here")


@pytest.fixture
def there(tmp_path, monkeypatch, capsys):
    return partial(run_here, tmp_path / "there", monkeypatch, capsys, ECORELAY_HUB_ID="there")


@pytest.fixture
def stdin(monkeypatch):
    def give(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return give


def written(home):
    return json.loads((home / "bridge.json").read_text(encoding="utf-8"))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# --- bridge-init -----------------------------------------------------------------------------------------


def test_bridge_init_writes_a_private_file_that_is_valid_and_shows_no_secret(here, home):
    said = here("bridge-init")
    assert said.code == 0, said
    table = written(home)
    assert (table["hub_id"], table["listen"], table["peers"]) == ("here", 9700, [])
    assert len(table["secret"]) == 22  # 128 bits
    assert table["secret"] not in said.out + said.err
    assert "PRIVATE" not in said.out + said.err
    assert len(FINGERPRINT.findall(said.out)) == 1
    assert "ecorelay bridge-init --join" in said.err
    if sys.platform != "win32":
        assert (mode(home), mode(home / "bridge.json"), mode(home / "identity.pem")) == (0o700, 0o600, 0o600)
    assert sorted(path.name for path in home.iterdir()) == ["bridge.json", "identity.pem"]
    (home / "bridge.json").write_text(json.dumps({**table, "listen": free_port()}), encoding="utf-8")
    assert here("bridge-check").code == 0


def test_two_hubs_have_two_secrets(here, there, home, tmp_path):
    here("bridge-init")
    there("bridge-init")
    assert written(home)["secret"] != written(tmp_path / "there")["secret"]


def test_nothing_is_overwritten_and_it_is_said_how_to_change_it(here, home):
    home.mkdir(mode=0o700)
    for content in ("{}", "not even JSON"):
        (home / "bridge.json").write_text(content)
        said = here("bridge-init")
        assert said.code == 2
        assert "is there already: change it with an editor" in said.err
        assert (home / "bridge.json").read_text() == content
    (home / "bridge.json").unlink()
    (home / "bridge.json").symlink_to(home / "nowhere")
    assert here("bridge-init").code == 2
    assert not (home / "nowhere").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--bind", "192.0.2.7"], "this machine does not have that address just now"),
        (["--peer", "desk=127.0.0.1:9700"], "this hub's own address"),
    ],
)
def test_what_may_be_right_later_is_written_and_noted(here, home, words, says):
    said = here("bridge-init", *words)
    assert said.code == 0, said
    assert says in said.err
    assert (home / "bridge.json").exists()


@pytest.mark.parametrize("target", ["nowhere", "bridge.json"])
def test_a_bridge_json_that_is_a_link_to_nowhere_is_no_missing_one(here, home, target):
    home.mkdir(mode=0o700)
    (home / "bridge.json").symlink_to(home / target)
    said = here("bridge-check")
    assert said.code == 2
    assert "bridge.json" in said.err
    assert "there is no" not in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--hub-id", "a b"], "--hub-id is 'a b'"),
        (["--hub-id", "a@b"], "--hub-id is 'a@b'"),
        (["--listen", "70000"], "Invalid value for '--listen'"),
        (["--listen", "-1"], "Invalid value for '--listen'"),
        (["--listen", "x"], "Invalid value for '--listen'"),
        (["--bind", "nowhere"], "bind is 'nowhere'"),
        (["--peer", "desk"], "--peer is 'desk'"),
        (["--peer", "desk="], "--peer is 'desk='"),
        (["--peer", "=host:1"], "HUB_ID is ''"),
        (["--peer", "desk=host:0"], "--peer is 'desk=host:0'"),
        (["--peer", "desk=host:99999"], "--peer is 'desk=host:99999'"),
        (["--peer", "desk=host:٣"], "--peer is"),
        (["--peer", "desk=::1:9700"], "IPv6 in brackets"),
        (["--peer", "a b=host:1"], "HUB_ID is 'a b'"),
        (["--peer", "HERE=host:1"], "this hub's own"),
        (["--peer", "desk=host:1", "--peer", "Desk=other:2"], "stands twice"),
        (["--peer", "desk=http://host:1"], "--peer is 'desk=http://host:1'"),
        (["--join", "--secret-from", "x"], "do not go together"),
        (["--secret-from", "/nowhere/at/all"], "--secret-from is '/nowhere/at/all'"),
    ],
)
def test_what_makes_no_valid_file_makes_none(here, home, words, says):
    said = here("bridge-init", *words)
    assert said.code == 2, said
    assert says in said.err
    assert not (home / "bridge.json").exists()
    assert not (home / "identity.pem").exists()


def test_hubs_to_dial_are_written_as_given(here, home):
    said = here(
        "bridge-init", "--peer", "desk=192.0.2.1:9800", "--peer", "lap=[2001:db8::1]:9", "--peer", "x=h"
    )
    assert said.code == 0, said
    assert [(p["hub_id"], p["host"], p["port"]) for p in written(home)["peers"]] == [
        ("desk", "192.0.2.1", 9800),
        ("lap", "2001:db8::1", 9),
        ("x", "h", 9700),
    ]
    assert "no identity is pinned for desk, lap, x" in said.err


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\xff\xfe12345678", "is not UTF-8"),
        (b"first line\nsecond line\n", "more than one line"),
        (b"x" * 9000, "that is no secret"),
        (b"short", "shorter than 8 characters"),
        (b"with\x07bell", "a control character"),
        (invitation.PREFIX.encode() + b"abc", "damaged or was cut"),
    ],
)
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_a_secret_that_is_none_is_refused_and_never_quoted(here, home, tmp_path, stdin, data, says, by):
    (tmp_path / "secret").write_bytes(data)
    stdin(data)
    said = here("bridge-init", "--secret-from", "-" if by == "stdin" else str(tmp_path / "secret"))
    assert said.code == 2, said
    assert says in said.err
    for word in ("first line", "short\n", "xxxx", "bell"):
        assert word not in said.err.replace("shorter", "")
    assert not (home / "bridge.json").exists()


@pytest.mark.parametrize("data", [b"correct horse battery staple", "glückliches Pferd im Stall\r\n".encode()])
def test_a_secret_comes_from_a_file_or_from_stdin(here, home, tmp_path, stdin, data):
    (tmp_path / "secret").write_bytes(data)
    assert here("bridge-init", "--secret-from", str(tmp_path / "secret")).code == 0
    assert written(home)["secret"] == data.decode().strip()
    (home / "bridge.json").unlink()
    stdin(data)
    said = here("bridge-init", "--secret-from", "-")
    assert (said.code, written(home)["secret"]) == (0, data.decode().strip())
    assert data.decode().strip() not in said.out + said.err


def test_a_weak_secret_is_warned_about(here, stdin):
    stdin(b"password")
    said = here("bridge-init", "--secret-from", "-")
    assert said.code == 0
    assert "secret is weak" in said.err


def test_another_name_for_a_hub_with_mail_is_confirmed_first(here, home):
    home.mkdir(mode=0o700)
    (home / "hub.db").write_bytes(b"")
    said = here("bridge-init", "--hub-id", "other")
    assert said.code == 2
    assert "say --yes if you mean it" in said.err
    assert not (home / "bridge.json").exists()
    assert here("bridge-init", "--hub-id", "other", "--yes").code == 0
    assert written(home)["hub_id"] == "other"


def test_an_identity_of_another_machine_is_told_before_anything_is_written(here, home, monkeypatch):
    here("bridge-init")
    (home / "bridge.json").unlink()
    monkeypatch.setattr("ecorelay_bridge.machine._system_id", lambda: "somewhere else")
    said = here("bridge-init")
    assert said.code == 2
    assert "was made on another machine" in said.err
    assert not (home / "bridge.json").exists()


def test_a_file_another_process_just_wrote_is_kept(tmp_path):
    path = tmp_path / "bridge.json"
    path.write_text("theirs")
    with pytest.raises(RelayError, match="just made by another process"):
        bridge_commands._write_new(path, b"ours")
    assert path.read_text() == "theirs"
    assert [each.name for each in tmp_path.iterdir()] == ["bridge.json"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_data_directory_that_cannot_be_written_is_told(here, home):
    home.mkdir(mode=0o500)
    said = here("bridge-init")
    assert said.code == 6
    assert "Traceback" not in said.err


# --- invitations -----------------------------------------------------------------------------------------


def test_an_invitation_carries_all_that_the_other_machine_needs(here, there, home, tmp_path, stdin):
    here("bridge-init", "--listen", "9711")
    mine = written(home)
    said = here("bridge-invite", "--host", "desk.local")
    assert said.out.startswith("ecorelay-join-1-")
    assert said.out.count("\n") == 1
    assert mine["secret"] not in said.out + said.err
    fingerprint = here("identity", "show").out.strip()
    stdin(said.out.encode())
    joined = there("bridge-init", "--join")
    assert joined.code == 0, joined
    theirs = written(tmp_path / "there")
    assert theirs["secret"] == mine["secret"]
    assert theirs["peers"] == [
        {"hub_id": "here", "host": "desk.local", "port": 9711, "identity": fingerprint}
    ]
    assert mine["secret"] not in joined.out + joined.err
    assert "no identity is pinned" not in joined.err


def test_an_invitation_survives_line_breaks_and_may_come_as_a_secret(here, there, home, tmp_path, stdin):
    here("bridge-init")
    line = here("bridge-invite", "--host", "desk.local").out.strip()
    stdin(f"  {line[:60]}\r\n{line[60:90]}\n {line[90:]}\n".encode())
    assert there("bridge-init", "--secret-from", "-").code == 0
    assert written(tmp_path / "there")["secret"] == written(home)["secret"]


def test_a_damaged_invitation_is_refused_wherever_it_is_damaged(here, there, tmp_path, stdin):
    here("bridge-init")
    line = here("bridge-invite").out.strip()
    begin = len(invitation.PREFIX)
    for at in range(begin, len(line) - 1, 17):
        for damaged in (line[:at], line[:at] + ("A" if line[at] != "A" else "B") + line[at + 1 :]):
            stdin(damaged.encode())
            said = there("bridge-init", "--join")
            assert (said.code, "damaged or was cut" in said.err) == (2, True), (at, said)
    assert not (tmp_path / "there" / "bridge.json").exists()


def test_an_invitation_nested_beyond_all_depth_is_refused(there, stdin):
    data = b'{"x":' + b"[" * 1_500
    coded = base64.urlsafe_b64encode(data + invitation._checksum(data))
    stdin(invitation.PREFIX.encode() + coded)
    said = there("bridge-init", "--join")
    assert (said.code, "another version" in said.err) == (2, True), said


@pytest.mark.parametrize("data", [b"correct horse battery staple", b"", b"ecorelay-join-2-abc"])
def test_what_is_no_invitation_is_refused_by_join(there, stdin, data):
    stdin(data)
    said = there("bridge-init", "--join")
    assert said.code == 2
    assert "correct horse" not in said.err


def test_an_invitation_to_oneself_is_refused(here, there, home, stdin):
    there("bridge-init", "--hub-id", "here", "--yes")
    stdin(there("bridge-invite").out.encode())
    said = here("bridge-init", "--join")
    assert said.code == 2
    assert "this machine is called here, as the one that invites" in said.err
    assert "--hub-id NAME" in said.err
    assert not (home / "bridge.json").exists()


@pytest.mark.parametrize(
    ("words", "noted"),
    [(["--bind", "127.0.0.1"], True), (["--bind", "127.0.0.1", "--host", "desk.local"], False), ([], False)],
)
def test_an_invitation_to_an_address_of_this_machine_only_is_noted(here, words, noted):
    bind, host = words[:2], words[2:]
    here("bridge-init", *bind)
    said = here("bridge-invite", *(host or ([] if bind else ["--host", "192.0.2.1"])))
    assert said.code == 0, said
    assert ("from this machine only" in said.err) is noted


def test_who_listens_nowhere_invites_nobody(here):
    said = here("bridge-invite")
    assert (said.code, "bridge-init" in said.err) == (2, True)
    here("bridge-init", "--listen", "0")
    said = here("bridge-invite")
    assert (said.code, said.out) == (2, "")
    assert "listens at no port" in said.err


@pytest.mark.parametrize("host", ["a b", "http://x/", "\x1b[31m", "h" * 300])
def test_a_host_that_is_none_is_refused(here, host):
    here("bridge-init")
    said = here("bridge-invite", "--host", host)
    assert (said.code, said.out) == (2, "")
    assert "\x1b" not in said.err


def test_an_invitation_shows_nothing_of_itself_but_the_hub():
    made = invitation.Invitation(hub_id="here", host="h", port=1, identity=OTHER, secret="sesame!!")
    assert "sesame" not in repr(made)
    assert invitation.taken(invitation.written(made)) == made


def test_the_own_address_is_one_of_this_machine():
    assert invitation.own_address("127.0.0.2") == "127.0.0.2"
    assert invitation.own_address("0.0.0.0")


# --- bridge-check ----------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_without_bridge_json_the_check_says_how_to_make_one(here):
    said = here("bridge-check")
    assert (said.code, "`ecorelay bridge-init` writes one" in said.err) == (2, True)
    found = here("bridge-check", "--json")
    assert (found.code, found.json["ok"], len(found.json["mistakes"])) == (2, False, 1)


def test_every_mistake_in_bridge_json_is_said_at_once(here, home):
    home.mkdir(mode=0o700)
    (home / "bridge.json").write_text('{"hub_id": "here", "listen": 70000, "sekret": "x", "peers": [{}]}')
    said = here("bridge-check")
    assert said.code == 2
    for words in ("do you mean 'secret'", "70,000", "host is missing", "port is missing"):
        assert words in said.err
    found = here("bridge-check", "--json")
    assert found.code == 2
    assert len(found.json["mistakes"]) >= 4
    (home / "bridge.json").write_text('{"hub_id": "here",}')
    assert "line 1, column 18 is a comma before }" in here("bridge-check").err


def test_the_check_says_for_each_hub_how_far_it_came_and_what_to_do(here):
    closed = free_port()
    here(
        "bridge-init",
        *("--bind", "127.0.0.1", "--listen", str(free_port())),
        *("--peer", f"desk=127.0.0.1:{closed}", "--peer", "far=no-such-host.invalid:9700"),
    )
    said = here("bridge-check")
    assert said.code == 1
    assert f"✗ connect    127.0.0.1 is there, but nothing listens at port {closed}" in said.out
    assert "→ start ecorelay there" in said.out
    assert "✗ resolve    the name no-such-host.invalid has no address" in said.out
    assert "2 of 2 hubs not reached" in said.err
    assert "no hub runs here" in said.err
    found = here("bridge-check", "--json")
    assert found.code == 1
    assert (found.json["ok"], found.json["mistakes"]) == (False, [])
    assert {hub["hub_id"]: hub["steps"][-1]["reason"] for hub in found.json["hubs"]} == {
        "desk": "connection_refused",
        "far": "not_resolved",
    }


def test_a_port_somebody_else_has_is_told(here):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        here("bridge-init", "--bind", "127.0.0.1", "--listen", str(taken.getsockname()[1]))
        said = here("bridge-check")
    assert said.code == 1
    assert "✗ port         another program listens at port" in said.out


# --- identity --------------------------------------------------------------------------------------------


def test_there_is_an_identity_once_it_is_needed_and_only_its_fingerprint_is_shown(here, home):
    said = here("identity", "show")
    assert (said.code, "`ecorelay bridge-init` makes one" in said.err) == (2, True)
    here("bridge-init")
    said = here("identity", "show")
    assert FINGERPRINT.fullmatch(said.out.strip())
    assert here("identity", "show", "--json").json["identity"] == said.out.strip()


def test_an_identity_moves_to_another_machine_and_the_old_one_is_kept(here, there, home, tmp_path):
    here("bridge-init")
    there("bridge-init")
    mine, theirs = here("identity", "show").out.strip(), there("identity", "show").out.strip()
    copy = tmp_path / "copy.pem"
    said = here("identity", "export", str(copy))
    assert said.code == 0, said
    assert "PRIVATE" not in said.out + said.err
    if sys.platform != "win32":
        assert mode(copy) == 0o600
    said = there("identity", "import", str(copy))
    assert said.code == 0, said
    assert f"it was {theirs}" in said.err
    assert there("identity", "show").out.strip() == mine
    there("identity", "import", str(tmp_path / "there" / "identity.pem.old"))
    assert there("identity", "show").out.strip() == theirs


def test_an_identity_that_is_damaged_can_be_replaced(here, home, tmp_path):
    here("bridge-init")
    mine = here("identity", "show").out
    here("identity", "export", str(tmp_path / "copy.pem"))
    (home / "identity.pem").write_bytes(b"damaged")
    said = here("identity", "import", str(tmp_path / "copy.pem"))
    assert said.code == 0, said
    assert here("identity", "show").out == mine
    assert (home / "identity.pem.old").read_bytes() == b"damaged"


def test_an_identity_is_exported_to_new_files_only(here, tmp_path):
    here("bridge-init")
    (tmp_path / "old").write_text("x")
    for name in ("", "-", str(tmp_path), str(tmp_path / "old"), str(tmp_path / "no" / "where")):
        said = here("identity", "export", name)
        assert said.code in (2, 6), name
        assert "PRIVATE" not in said.out + said.err
    assert (tmp_path / "old").read_text() == "x"


def test_what_is_no_identity_is_not_imported(here, home, tmp_path):
    here("bridge-init")
    before = (home / "identity.pem").read_bytes()
    (tmp_path / "garbage").write_bytes(b"\0" * 100)
    for name in ("", str(tmp_path), str(tmp_path / "nowhere"), str(tmp_path / "garbage")):
        assert here("identity", "import", name).code == 2, name
    assert (home / "identity.pem").read_bytes() == before


# --- trust and distrust ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a b", OTHER], "HUB_ID is 'a b'"),
        (["desk", "SHA256:short"], "FINGERPRINT is 'SHA256:short'"),
        (["desk", "A" * 43], "FINGERPRINT is"),
        (["HERE", OTHER], "HERE is this hub itself"),
    ],
)
def test_nobody_is_trusted_by_mistake(here, home, words, says):
    here("bridge-init")
    said = here("trust", *words)
    assert said.code == 2, said
    assert says in said.err
    assert not (home / "known-hubs.json").exists()


def test_ones_own_fingerprint_is_not_another_hubs(here):
    here("bridge-init")
    said = here("trust", "desk", here("identity", "show").out.strip())
    assert (said.code, "this hub's own identity" in said.err) == (2, True)


def test_trust_distrust_and_trust_again(here, home):
    said = here("distrust", "desk")
    assert (said.code, "no hub desk is known" in said.err) == (4, True)
    said = here("trust", "desk", OTHER)
    assert said.code == 0
    assert f"desk is whoever has {OTHER}" in said.err
    said = here("distrust", "DESK")
    assert (said.code, "desk is refused" in said.err) == (0, True)
    known = json.loads((home / "known-hubs.json").read_text())["hubs"]
    assert known == {"desk": {"identity": OTHER, "distrusted": True}}
    assert here("trust", "Desk", OTHER).code == 0
    assert json.loads((home / "known-hubs.json").read_text())["hubs"] == {"desk": {"identity": OTHER}}
    if sys.platform != "win32":
        assert mode(home / "known-hubs.json") == 0o600


def test_who_trusts_a_renamed_hub_trusts_it_under_its_old_name_too(here, home):
    here("trust", "desk", OTHER)
    here("distrust", "desk")
    said = here("trust", "desk2", OTHER)
    assert said.code == 0
    assert "desk, which was distrusted, has the same identity" in said.err
    known = json.loads((home / "known-hubs.json").read_text())["hubs"]
    assert known == {"desk": {"identity": OTHER}, "desk2": {"identity": OTHER}}


def test_a_pin_in_bridge_json_counts_first_and_that_is_said(here, home):
    here("bridge-init", "--peer", "desk=192.0.2.1:1")
    table = written(home)
    table["peers"][0]["identity"] = "SHA256:" + "B" * 43
    (home / "bridge.json").write_text(json.dumps(table))
    said = here("trust", "desk", OTHER)
    assert said.code == 0
    assert "pins another identity for desk" in said.err


def test_damaged_memory_of_who_is_who_forgets_nobody_silently(here, home):
    home.mkdir(mode=0o700)
    (home / "known-hubs.json").write_text("{")
    said = here("trust", "desk", OTHER)
    assert (said.code, "is damaged" in said.err) == (2, True)
    assert (home / "known-hubs.json").read_text() == "{"


@pytest.mark.parametrize(("runs_as", "how"), [("HERE", "reload"), ("vm", "restart")])
def test_a_hub_that_has_not_read_the_file_is_told_to_in_the_way_that_works(here, home, capsys, runs_as, how):
    here("bridge-init")
    settings = bridge.needed(Paths(home))
    running = wire.HubDetails(req_id=1, unread=0, hub_id=runs_as, version="1", sessions=0)
    capsys.readouterr()
    bridge_commands._sum_up(settings, {}, [], running, False, True)
    assert f"has not read this bridge.json: `ecorelay hub {how}`" in capsys.readouterr().err


# --- what is not installed -------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["bridge-init"], ["identity", "show"]])
def test_without_its_libraries_federation_says_what_to_install(here, home, monkeypatch, words):
    home.mkdir(mode=0o700)
    (home / "identity.pem").write_text("x")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cryptography", "spake2")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "spake2", None)
    said = here(*words)
    assert (said.code, "cryptography and spake2: " in said.err) == (2, True), said
    assert "-m pip install cryptography spake2" in said.err or "uv tool install '.[bridge]'" in said.err
    assert not (home / "bridge.json").exists()


# --- hub reload, hub forget ------------------------------------------------------------------------------


def test_reload_and_forget_need_a_hub_or_a_yes(here):
    assert here("hub", "reload").code == 3
    assert here("hub", "forget", "a b").code == 2
    said = here("hub", "forget", "desk")
    assert (said.code, "say --yes" in said.err) == (2, True)


def test_a_hub_that_stands_in_bridge_json_is_not_forgotten(here):
    here("bridge-init", "--peer", "desk=192.0.2.1:1")
    said = here("hub", "forget", "DESK", "--yes")
    assert (said.code, "take it out first" in said.err) == (2, True)
