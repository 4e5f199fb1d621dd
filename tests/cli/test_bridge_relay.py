"""`bridge-init --relay` and invitations that have to do with relays, as far as no relay server is needed."""

from __future__ import annotations

import io
import json
import sys
from functools import partial

import pytest
import trio

from ecorelay.cli import invitation, screen
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.relay_invitation import Joined, Pass
from ecorelay_bridge.settings import Secret
from tests.bridge.hubs import free_port
from tests.helpers.command_line import run_here

TOKEN = "canary-of-the-token-of-128-bits-0123456789"
SECRET = "a secret of some length 4711"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def url():
    """Where nobody listens."""
    return f"ws://127.0.0.1:{free_port()}"


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


def configure(home, **table):
    home.mkdir(mode=0o700)
    path = home / "bridge.json"
    path.write_text(json.dumps({"hub_id": "here", "secret": SECRET, **table}))
    path.chmod(0o600)


@pytest.mark.parametrize("source", ["stdin", "option", "file", "server", "terminal"])
def test_a_token_is_taken_from_anywhere_but_an_argument(
    here, home, url, tmp_path, stdin, monkeypatch, source
):
    words = ["bridge-init", "--relay", url]
    data = json.dumps({"port": 9800, "secret": TOKEN}) if source == "server" else f"{TOKEN}\n"
    if source in ("file", "server"):
        (tmp_path / "token").write_text(data)
        words += ["--token-from", str(tmp_path / "token")]
    elif source == "terminal":
        monkeypatch.setattr(screen, "is_terminal", lambda stream: stream is sys.stdin)
        monkeypatch.setattr("getpass.getpass", lambda prompt, stream: TOKEN)
    else:
        stdin(data.encode())
        words += ["--token-from", "-"] * (source == "option")
    said = here(*words)
    assert said.code == 0, said
    assert written(home)["relay"] == {"url": url, "token": TOKEN}
    assert written(home)["listen"] == 0
    assert TOKEN not in said.out + said.err
    assert "note: it was tried, and" in said.err
    assert "nothing listens at port" in said.err
    assert "ecorelay bridge-invite" in said.err


@pytest.mark.parametrize(
    ("words", "data", "says"),
    [
        (["--relay", "https://relay.example.org"], b"x", "it must begin with wss://"),
        (["--relay", "wss://me:pw@relay.example.org"], TOKEN.encode(), "name or password in it"),
        (["--relay", "wss://r"], b"", "stdin is empty"),
        (["--relay", "wss://r"], b"two\nlines", "more than one line"),
        (["--relay", "wss://r"], b'{"port": 9800}', "no relay-config.json with a secret"),
        (["--relay", "wss://r"], b'{"secret": ', "no relay-config.json with a secret"),
        (["--relay", "wss://r"], b'{"secret": ["x"]}', "no relay-config.json with a secret"),
        (["--relay", "wss://r", "--token-from", "/nowhere"], b"", "--token-from is '/nowhere'"),
        (["--relay", "ws://192.0.2.1"], b"weak-token", "so weak"),
        (["--relay", "wss://r", "--secret-from", "-"], b"x", "cannot both come from stdin"),
        (["--relay", "wss://r", "--join"], b"x", "do not go together"),
        (["--token-from", "-"], b"x", "goes with --relay"),
    ],
)
def test_what_makes_no_good_relay_writes_nothing_and_quotes_nothing(here, home, stdin, words, data, says):
    stdin(data)
    said = here("bridge-init", *words)
    assert said.code == 2, said
    assert says in said.err
    assert not (home / "bridge.json").exists()
    assert "weak-token" not in said.err
    assert TOKEN not in said.err
    assert ":pw" not in said.err


def test_a_relay_is_added_to_what_is_there_and_the_rest_stays(here, home, url, stdin):
    peers = [{"hub_id": "desk", "host": "192.0.2.1", "port": 9700}]
    configure(home, listen=9711, peers=peers, allow={"*": ["mail"]})
    before = written(home)
    stdin(TOKEN.encode())
    said = here("bridge-init", "--relay", url, "--json")
    assert said.code == 0, said
    assert said.json["relays"] == [url.removeprefix("ws://")]
    assert written(home) == {**before, "relay": {"url": url, "token": TOKEN}}
    assert list(written(home)) == [*before, "relay"]
    # A second one.
    stdin(TOKEN.encode())
    here("bridge-init", "--relay", "ws://127.0.0.1:1")
    assert [each["url"] for each in written(home)["relay"]] == [url, "ws://127.0.0.1:1"]
    # The first one again, with another token, and as somebody else might spell it.
    stdin(b"another token of 128 bits, 0123456789")
    here("bridge-init", "--relay", f"{url}/")
    tokens = [each["token"] for each in written(home)["relay"]]
    assert tokens == ["another token of 128 bits, 0123456789", TOKEN]


def test_a_relay_makes_a_secret_where_none_was_needed(here, home, url, stdin):
    home.mkdir(mode=0o700)
    (home / "bridge.json").write_text('{"hub_id": "here"}')
    stdin(TOKEN.encode())
    assert here("bridge-init", "--relay", url).code == 0
    assert len(written(home)["secret"]) == 22


def test_a_relay_is_not_added_to_what_is_wrong_nor_with_other_changes(here, home, url, stdin):
    configure(home, listen="a word")
    before = written(home)
    stdin(TOKEN.encode())
    said = here("bridge-init", "--relay", url)
    assert (said.code, "listen" in said.err) == (2, True)
    assert written(home) == before
    for words in (["--hub-id", "other"], ["--listen", "0"], ["--bind", "127.0.0.1"], ["--secret-from", "x"]):
        stdin(TOKEN.encode())
        said = here("bridge-init", "--relay", url, *words)
        assert (said.code, "only --relay and --token-from" in said.err) == (2, True), said
        assert written(home) == before


def test_a_bridge_json_that_is_a_link_stays_one(here, home, url, stdin, tmp_path):
    configure(home)
    (home / "bridge.json").rename(tmp_path / "kept.json")
    (home / "bridge.json").symlink_to(tmp_path / "kept.json")
    stdin(TOKEN.encode())
    assert here("bridge-init", "--relay", url).code == 0
    assert (home / "bridge.json").is_symlink()
    assert json.loads((tmp_path / "kept.json").read_bytes())["relay"]["token"] == TOKEN


# --- invitations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_an_invitation_of_a_hub_that_listens_brings_its_relays_along(
    here, there, home, tmp_path, stdin, count
):
    relays = [{"url": f"ws://127.0.0.1:{number}", "token": TOKEN} for number in range(1, count + 1)]
    configure(home, listen=9711, relay=relays if count > 1 else relays[0])
    line = here("bridge-invite", "--host", "desk.local")
    assert line.code == 0, line
    assert TOKEN not in line.out + line.err
    stdin(line.out.encode())
    assert there("bridge-init", "--join").code == 0
    joined = written(tmp_path / "there")
    assert joined["relay"] == written(home)["relay"]
    assert (joined["secret"], joined["peers"][0]["host"], joined["listen"]) == (SECRET, "desk.local", 9700)


def test_who_is_at_no_relay_invites_to_none(here, home):
    configure(home, listen=9711)
    said = here("bridge-invite", "--relay")
    assert (said.code, said.out) == (2, "")
    assert "bridge-init --relay URL" in said.err


@pytest.mark.parametrize("words", [["--relay", "--host", "desk.local"], ["--host", "desk.local"]])
def test_at_a_relay_nobody_is_dialed(here, home, url, words):
    configure(home, relay={"url": url, "token": TOKEN})
    said = here("bridge-invite", *words)
    assert (said.code, said.out) == (2, "")
    assert "--host" in said.err


def test_without_the_relay_server_nobody_is_invited_and_it_is_said_why(here, home, url):
    configure(home, relay={"url": url, "token": TOKEN})
    said = here("bridge-invite")
    assert (said.code, said.out) == (1, "")
    assert "nothing listens at port" in said.err
    assert "start the relay server there" in said.err


MEETING = invitation.Meeting(url="ws://127.0.0.1:1", hub_id="desk", invitation="0" * 32, token="t", code="c")


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({}, 1, "nothing listens at port 1"),
        ({"hub_id": "there"}, 2, "--hub-id NAME"),
        ({"url": "http://127.0.0.1:1"}, 2, "leads to no relay server"),
        ({"invitation": "no number"}, 2, "another version of ecorelay"),
    ],
)
def test_who_cannot_come_by_a_line_is_told_why_and_nothing_is_written(
    there, tmp_path, stdin, changes, code, says
):
    fields = {name: getattr(MEETING, name) for name in MEETING.__struct_fields__} | changes
    stdin(invitation.written(invitation.Meeting(**fields)).encode())
    said = there("bridge-init", "--join")
    assert (said.code, says in said.err) == (code, True), said
    assert not (tmp_path / "there" / "bridge.json").exists()


def test_an_invitation_of_a_later_kind_asks_for_an_upgrade(there, stdin):
    stdin(b"ecorelay-join-3-abcdef")
    said = there("bridge-init", "--join")
    assert (said.code, "another version of ecorelay" in said.err) == (2, True)


def test_nothing_shows_what_is_in_an_invitation():
    entry = invitation.RelayEntry(url="wss://relay.example.org", token="sesame")
    meeting = invitation.Meeting(url="wss://r", hub_id="here", invitation="", token="sesame", code="sesame")
    assert "sesame" not in repr(entry) + repr(meeting)
    assert invitation.taken(invitation.written(meeting)) == meeting


# --- bridge-invite at a relay, told what came of it ------------------------------------------------------

FINGERPRINT = "SHA256:" + "A" * 43


@pytest.fixture
def meets(home, monkeypatch):
    """Let `bridge-invite` find this at its relays, one after the other: a refusal, or what happens there."""

    def arrange(*ends, **relay):
        urls = [f"wss://relay-{number}.example.org" for number in range(len(ends))]
        configure(home, relay=[{"url": url, "token": TOKEN, **relay} for url in urls])
        seen = []

        async def invite(relay, settings, me, trust, *, on_open, on_failed, environ=None):
            seen.append(relay.url)
            end = ends[urls.index(relay.url)]
            if isinstance(end, Refused):
                raise end
            on_open(
                Pass(url=relay.url, hub_id="here", invitation="0" * 32, token=Secret("t"), code=Secret("c"))
            )
            return await end(on_failed)

        monkeypatch.setattr("ecorelay_bridge.relay_invitation.invite", invite)
        return seen

    return arrange


async def joined(on_failed):
    on_failed(Refused(Reason.CLOSED, "it closed the connection"))
    return Joined(hub_id="ben", identity=FINGERPRINT)


async def nobody(on_failed):
    await trio.sleep_forever()


async def void(on_failed):
    raise Refused(Reason.INVITATION, "it is void", "make a new one")


AWAY = Refused(Reason.RELAY_AWAY, "the relay is away", "start it")


def test_the_next_relay_is_taken_where_one_is_away_and_who_joined_is_named(here, meets):
    seen = meets(AWAY, joined, joined, ca="authority.pem")
    said = here("bridge-invite")
    assert said.code == 0, said
    assert seen == ["wss://relay-0.example.org", "wss://relay-1.example.org"]
    assert invitation.taken(said.out).hub_id == "here"
    assert "did not get through: it closed the connection; the invitation is still good" in said.err
    assert f"ben has joined; its identity is {FINGERPRINT}" in said.err
    assert "Bring it there" in said.err
    assert "no hub runs here" in said.err


def test_an_invitation_that_is_void_is_not_made_again_elsewhere(here, meets):
    seen = meets(void, joined)
    said = here("bridge-invite")
    assert (said.code, len(seen)) == (1, 1)
    assert "it is void" in said.err
    assert "make a new one" in said.err


def test_an_invitation_expires(here, meets, monkeypatch):
    monkeypatch.setattr("ecorelay.cli.meeting.WAIT_S", 0.05)
    meets(nobody)
    said = here("bridge-invite")
    assert said.code == 5
    assert "the invitation has expired" in said.err


def test_at_a_terminal_it_is_said_what_to_do_with_the_line(here, meets, monkeypatch):
    monkeypatch.setattr(screen, "is_terminal", lambda stream: True)
    meets(joined)
    said = here("bridge-invite")
    assert said.code == 0
    assert "paste that line on the other machine, where `ecorelay bridge-init --join` asks for it" in said.err
