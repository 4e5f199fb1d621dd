"""Which hello proves a hub, and what is remembered of those that prove nothing."""

import json
import secrets

import pytest

from ecorelay import relay_wire
from ecorelay.errors import WireError
from ecorelay.relay_wire import CLOSE_RATE, CLOSE_TOKEN, CLOSE_VERSION
from ecorelay.secret import Secret
from ecorelay_relay_server.bounds import COMINGS_MAX, FAILED_MAX, WINDOW_S
from ecorelay_relay_server.judge import Judge, Proven, Refused, normal
from ecorelay_relay_server.settings import RealmSettings, Settings
from tests.relay_server.clients import TOKEN, Identity, settings

WRONG = "not the token, but as long as it"
WEAK = "no strong one"
SOURCE = "192.0.2.1"


class Court:
    """A judge, and a clock that goes on a second with each hello."""

    def __init__(self, **fields):
        self.judge = Judge(settings(**fields))
        self.now = 100.0

    def says(self, identity, *, source=SOURCE, nonce=None, **fields):
        self.now += 1
        nonce = nonce or secrets.token_hex(32)
        return self.judge.judge(identity.hello(nonce, **fields), nonce, source, self.now)


def test_the_token_and_the_identity_prove_a_hub():
    assert Court().says(Identity()) == Proven("default", Secret(TOKEN))


def test_a_wrong_token_is_refused_with_the_reason():
    verdict = Court().says(Identity(), token=WRONG)
    assert verdict[:2] == (CLOSE_TOKEN, "token")
    assert verdict.reason == "the token is none of this server's"


@pytest.mark.guarantee("relay-replay")
@pytest.mark.parametrize("field", ["hub_id", "url", "public", "nonce"])
def test_a_proof_holds_for_nothing_but_what_it_was_made_for(field):
    court, identity = Court(), Identity()
    nonce = secrets.token_hex(32)
    hello = identity.hello(nonce)
    other = {"hub_id": "other", "url": "wss://other", "public": Identity().public.hex(), "nonce": "a" * 64}
    changed = relay_wire.RelayHello(
        **{name: getattr(hello, name) for name in hello.__struct_fields__} | {field: other[field]}
    )
    assert court.judge.judge(changed, nonce, SOURCE, 0.0)[:2] == (CLOSE_TOKEN, "token")


def test_a_hello_that_was_heard_elsewhere_is_worth_nothing_to_another_nonce():
    court, identity = Court(), Identity()
    hello = identity.hello(secrets.token_hex(32))
    assert isinstance(court.judge.judge(hello, secrets.token_hex(32), SOURCE, 0.0), Refused)


def test_who_knows_the_token_still_cannot_be_another_identity():
    court, victim, thief = Court(), Identity(), Identity()
    verdict = court.says(victim, key=thief.key)
    assert verdict[:2] == (CLOSE_TOKEN, "signature")


@pytest.mark.parametrize("public", ["0" * 64, "f" * 64])
def test_a_key_that_is_none_proves_nothing(public):
    assert isinstance(Court().says(Identity(), public=public), Refused)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_told_who_has_to_upgrade(version):
    verdict = Court().says(Identity(), version=version)
    assert verdict[:2] == (CLOSE_VERSION, "version")
    assert ("upgrade the server" if version > 1 else "upgrade the hub") in verdict.reason


@pytest.mark.parametrize("version", [-1, 65_536, 10**4_000])
def test_what_is_no_version_is_no_message_so_nobody_has_to_write_it_out(version):
    with pytest.raises(WireError):
        relay_wire.decode_hello(json.dumps({"type": "relay_hello", "version": version}))
    with pytest.raises(WireError):
        relay_wire.decode_to_hub(
            json.dumps({"type": "relay_nonce", "versions": [1, version], "nonce": "00" * 32})
        )


def test_each_realm_has_its_token_and_each_token_leads_to_its_realm():
    realms = tuple(
        RealmSettings(
            name=name, tokens=(Secret(f"secret of {name}"), Secret(f"old one of {name}")), max_hubs=9
        )
        for name in ("red", "blue")
    )
    judge = Judge(Settings(port=1, realms=realms))
    for name in ("red", "blue"):
        for token in (f"secret of {name}", f"old one of {name}"):
            nonce = secrets.token_hex(32)
            hello = Identity().hello(nonce, token=token)
            assert judge.judge(hello, nonce, SOURCE, 0.0) == Proven(name, Secret(token))


def test_five_failed_proofs_and_the_address_waits_a_minute():
    court = Court(token=WEAK)
    for _ in range(FAILED_MAX):
        assert court.says(Identity(), token=WRONG).code == CLOSE_TOKEN
    assert court.says(Identity(), token=WRONG)[:2] == (CLOSE_RATE, "source_refused")
    assert court.says(Identity(), token=WEAK)[:2] == (CLOSE_RATE, "source_refused")
    assert isinstance(court.says(Identity(), token=WEAK, source="192.0.2.2"), Proven)
    court.now += WINDOW_S
    assert isinstance(court.says(Identity(), token=WEAK), Proven)


def test_who_fails_behind_an_address_keeps_no_hub_there_out_where_the_token_cannot_be_guessed():
    court = Court()
    for _ in range(FAILED_MAX):
        assert court.says(Identity(), token=WRONG).code == CLOSE_TOKEN
    assert court.says(Identity(), token=WRONG)[:2] == (CLOSE_RATE, "source_refused")
    assert isinstance(court.says(Identity()), Proven)
    # With another's identity, or by another's URL, it is no proof.
    assert court.says(Identity(), key=Identity().key)[:2] == (CLOSE_RATE, "source_refused")
    # One weak token among strong ones, and guesses are few again.
    old = (Secret(TOKEN), Secret(WEAK))
    court.judge.use(settings(realms=(RealmSettings(name="default", tokens=old, max_hubs=9),)))
    assert court.says(Identity())[:2] == (CLOSE_RATE, "source_refused")


def test_a_hub_that_was_here_before_gets_in_from_an_address_that_is_refused():
    court, hub = Court(), Identity()
    assert isinstance(court.says(hub), Proven)
    for _ in range(FAILED_MAX):
        court.says(Identity(), token=WRONG)
    assert isinstance(court.says(hub), Proven)
    # In its name, without its key, nobody does; and nothing is learned about the token.
    assert court.says(hub, key=Identity().key)[:2] == (CLOSE_RATE, "source_refused")
    assert court.says(hub, key=Identity().key, token=WRONG)[:2] == (CLOSE_RATE, "source_refused")


def test_five_failed_proofs_of_an_identity_from_anywhere_and_it_waits_a_minute():
    court, hub = Court(), Identity()
    for number in range(FAILED_MAX):
        court.says(hub, token=WRONG, source=f"198.51.100.{number}")
    assert court.says(hub, source="203.0.113.1")[:2] == (CLOSE_RATE, "identity_refused")
    court.now += WINDOW_S
    assert isinstance(court.says(hub, source="203.0.113.1"), Proven)


def test_nobody_can_have_a_hub_locked_out_by_failing_in_its_name():
    court, victim = Court(), Identity()
    for number in range(FAILED_MAX * 2):
        court.says(victim, key=Identity().key, token=WRONG, source=f"198.51.100.{number}")
    assert isinstance(court.says(victim), Proven)


def test_an_identity_that_comes_all_the_time_waits():
    court, hub = Court(), Identity()
    for _ in range(COMINGS_MAX):
        assert isinstance(court.says(hub), Proven)
    assert court.says(hub)[:2] == (CLOSE_RATE, "comings")
    court.now += WINDOW_S
    assert isinstance(court.says(hub), Proven)


def test_from_one_source_only_so_many_hubs_come_whatever_their_identities(monkeypatch):
    monkeypatch.setattr("ecorelay_relay_server.door.SOURCE_BURST", 5)
    monkeypatch.setattr("ecorelay_relay_server.door.SOURCE_PER_S", 0.1)
    court = Court()
    verdicts = [court.says(Identity()) for _ in range(8)]
    assert [isinstance(each, Proven) for each in verdicts] == [True] * 6 + [False] * 2
    assert verdicts[-1][:2] == (CLOSE_RATE, "source_comings")
    assert isinstance(court.says(Identity(), source="192.0.2.2"), Proven)
    court.now += 20
    assert isinstance(court.says(Identity()), Proven)


def test_where_urls_are_given_the_hub_must_have_dialed_one_of_them():
    court = Court(urls=("wss://Relay.example.org/", "ws://[::1]:9800/x"))
    assert isinstance(court.says(Identity(), url="wss://relay.example.org:443"), Proven)
    assert isinstance(court.says(Identity(), url="ws://[::1]:9800/x/"), Proven)
    verdict = court.says(Identity(), url="wss://evil.example.org")
    assert verdict[:2] == (CLOSE_TOKEN, "url")
    assert "urls" in verdict.reason


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("wss://a", "wss://a:443/", True),
        ("ws://A:80/p", "ws://a/p", True),
        ("wss://a", "ws://a", False),
        ("wss://a/p", "wss://a/q", False),
        ("wss://a?x", "wss://a", False),
        ("wss://a:99999", "wss://a:99999", True),
    ],
)
def test_two_spellings_of_a_url_are_one(one, other, same):
    assert (normal(one) == normal(other)) is same


def test_no_reason_names_the_token():
    court = Court(urls=("wss://x",))
    verdicts = [
        court.says(Identity(), token=WRONG),
        court.says(Identity()),
        court.says(Identity(), key=Identity().key),
    ]
    assert all(isinstance(each, Refused) for each in verdicts)
    assert not any(word in each.reason for each in verdicts for word in (TOKEN, WRONG))
    assert TOKEN not in repr(settings())


# --- two that meet apart ---------------------------------------------------------------------------------

NUMBER = "0123456789abcdef" * 2


def pass_for(*, invited, number=NUMBER, token=TOKEN):
    return relay_wire.pass_of(token, number, invited=invited)


@pytest.mark.parametrize("invited", [False, True])
def test_a_pass_leads_to_its_meeting_and_counts_as_the_token_it_was_made_from(invited):
    verdict = Court().says(Identity(), token=pass_for(invited=invited), invitation=NUMBER, invited=invited)
    assert verdict == Proven("default", Secret(TOKEN), NUMBER, invited)


@pytest.mark.guarantee("relay-invitation")
@pytest.mark.parametrize(
    ("token", "fields"),
    [
        (TOKEN, {"invitation": NUMBER, "invited": True}),
        (TOKEN, {"invitation": NUMBER}),
        (pass_for(invited=True), {}),
        (pass_for(invited=True), {"invitation": NUMBER}),
        (pass_for(invited=False), {"invitation": NUMBER, "invited": True}),
        (pass_for(invited=True), {"invitation": NUMBER[::-1], "invited": True}),
        (pass_for(invited=True, token=WRONG), {"invitation": NUMBER, "invited": True}),
    ],
    ids=["token", "token, inviting", "realm", "other side", "other side too", "other meeting", "other token"],
)
def test_a_pass_opens_one_side_of_one_meeting_and_nothing_else(token, fields):
    assert Court().says(Identity(), token=token, **fields)[:2] == (CLOSE_TOKEN, "token")


def test_who_was_invited_once_is_not_known_afterwards():
    feeble = "easy 1"
    court, guest = Court(token=feeble), Identity()
    fields = {"token": pass_for(invited=True, token=feeble), "invitation": NUMBER, "invited": True}
    assert isinstance(court.says(guest, **fields), Proven)
    for _ in range(FAILED_MAX):
        court.says(Identity(), token=WRONG)
    assert court.says(guest, **fields)[:2] == (CLOSE_RATE, "source_refused")


def test_the_token_cannot_be_read_off_a_pass_and_passes_differ():
    passes = {pass_for(invited=invited, number=number) for invited in (0, 1) for number in (NUMBER, "f" * 32)}
    assert len(passes) == 4
    assert all(len(each) == 43 and TOKEN not in each for each in passes)
