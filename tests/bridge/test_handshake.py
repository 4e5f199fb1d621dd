"""The mutual proof: who gets through, and that nothing changed on the way does."""

from __future__ import annotations

import functools
import json

import pytest
from hypothesis import given, strategies as st

from ecorelay_bridge.handshake import MESSAGE_MAX, Proof, refusal_bytes
from ecorelay_bridge.refusals import Reason, Refused
from ecorelay_bridge.settings import Secret
from tests.bridge.hubs import (
    CLOCK,
    OLD,
    RIGHT,
    WRONG,
    accepting,
    dialing,
    identity,
    party,
    password,
)

STEPS = ("open", "offer", "prove", "proved")


def run(dialer, acceptor, change=lambda step, raw: raw):
    """One handshake with somebody between.

    Returns:
        What the dialer and the acceptor end with: a proof or a refusal. As on a network, each side is told
        of the other's refusal, and a side that concluded first finds out by the closed stream.
    """

    def say(refused, tell):
        raw = refusal_bytes(refused)
        if raw is None:
            return refused
        try:
            tell(raw)
        except Refused as told:
            return told
        raise AssertionError("a refusal was taken for a message")

    try:
        opened = change("open", dialer.open())
        try:
            acceptor.read_open(opened)
            offer = change("offer", acceptor.offer())
        except Refused as refused:
            return say(refused, dialer.prove), refused
        try:
            prove = change("prove", dialer.prove(offer))
        except Refused as refused:
            return refused, say(refused, acceptor.finish)
        try:
            proved, accepted = acceptor.finish(prove)
        except Refused as refused:
            return say(refused, dialer.finish), refused
        return dialer.finish(change("proved", proved)), accepted
    except Refused as refused:
        return refused, None


def test_two_hubs_with_one_secret_prove_themselves() -> None:
    dialed, accepted = run(dialing(), accepting())
    assert dialed == Proof(
        role="dialer",
        hub_id="beta",
        identity=identity("beta").fingerprint,
        secret=Secret(RIGHT),
        version=1,
        app="0.1.0",
        clock_ms=CLOCK,
        checking=False,
    )
    assert accepted == Proof(
        role="acceptor",
        hub_id="alpha",
        identity=identity("alpha").fingerprint,
        secret=Secret(RIGHT),
        version=1,
        app="0.1.0",
        clock_ms=CLOCK,
        checking=False,
    )


def test_a_wrong_secret_is_refused_on_both_sides() -> None:
    dialed, accepted = run(dialing(secret=WRONG), accepting())
    assert (dialed.reason, dialed.told) == (Reason.WRONG_SECRET, True)
    assert (accepted.reason, accepted.told) == (Reason.WRONG_SECRET, False)
    assert dialed.failed_proof
    assert accepted.failed_proof


@pytest.mark.parametrize(("secret", "named"), [(RIGHT, RIGHT), (OLD, OLD)])
def test_while_secrets_change_both_are_accepted_and_the_proof_names_which(secret, named) -> None:
    dialed, accepted = run(dialing(secret=secret), accepting(secrets=(RIGHT, OLD)))
    assert dialed.secret == Secret(named)
    assert accepted.secret == Secret(named)


def test_a_third_secret_is_refused_by_a_hub_that_accepts_two() -> None:
    dialed, accepted = run(dialing(secret=WRONG), accepting(secrets=(RIGHT, OLD)))
    assert dialed.reason is accepted.reason is Reason.WRONG_SECRET


def test_the_highest_common_version_is_spoken() -> None:
    dialed, accepted = run(dialing(versions=(1, 2, 3)), accepting(versions=(2, 3, 4)))
    assert dialed.version == accepted.version == 3


@pytest.mark.parametrize(
    ("ours", "theirs", "older"), [((1,), (2, 3), "this hub"), ((4, 5), (2, 3), "that hub")]
)
def test_without_a_common_version_the_older_side_is_named(ours, theirs, older) -> None:
    dialer = dialing(versions=ours)
    acceptor = accepting(versions=theirs)
    with pytest.raises(Refused) as refused:
        acceptor.read_open(dialer.open())
    raw = refusal_bytes(refused.value, theirs)
    assert raw is not None
    with pytest.raises(Refused) as told:
        dialer.prove(raw)
    assert told.value.reason is refused.value.reason is Reason.VERSION
    assert told.value.versions == theirs
    assert f"on {older}'s machine" in told.value.remedy


def test_a_version_cut_out_of_the_dialers_list_is_noticed() -> None:
    def downgrade(step, raw):
        return raw.replace(b'"versions":[1,2]', b'"versions":[1]') if step == "open" else raw

    dialed, accepted = run(dialing(versions=(1, 2)), accepting(versions=(1, 2)), downgrade)
    assert dialed.reason is Reason.GARBAGE
    assert isinstance(accepted, Refused)


def test_a_version_cut_out_of_both_lists_is_noticed() -> None:
    def downgrade(step, raw):
        raw = raw.replace(b'"versions":[1,2]', b'"versions":[1]')
        return raw.replace(b'"version":2', b'"version":1')

    dialed, accepted = run(dialing(versions=(1, 2)), accepting(versions=(1, 2)), downgrade)
    assert dialed.reason is accepted.reason is Reason.WRONG_SECRET


# --- names and identities ------------------------------------------------------------------------


def test_a_hub_that_dials_its_own_name_does_not_even_begin() -> None:
    with pytest.raises(Refused) as refused:
        dialing("alpha", "ALPHA", certificate=identity("beta").certificate)
    assert refused.value.reason is Reason.SAME_HUB


def test_from_and_to_the_same_is_refused_by_the_acceptor() -> None:
    raw = dialing("gamma", "beta").open().replace(b'"from":"gamma"', b'"from":"beta"')
    with pytest.raises(Refused) as refused:
        accepting().read_open(raw)
    assert refused.value.reason is Reason.SAME_HUB


def test_our_own_hub_id_from_another_machine_is_refused() -> None:
    raw = dialing("BETA", "gamma", who="alpha").open()
    with pytest.raises(Refused) as refused:
        accepting().read_open(raw)
    assert refused.value.reason is Reason.OWN_HUB_ID


def test_our_own_identity_is_refused_by_the_dialer_before_it_says_anything() -> None:
    with pytest.raises(Refused) as refused:
        dialing("alpha", "beta", certificate=identity("alpha").certificate)
    assert refused.value.reason is Reason.OWN_IDENTITY
    assert "identity.pem" in refused.value.remedy


def test_our_own_identity_is_refused_by_the_acceptor() -> None:
    raw = dialing("alpha", "beta", who="gamma").open()
    with pytest.raises(Refused) as refused:
        accepting("beta", who="gamma").read_open(raw)
    assert refused.value.reason is Reason.OWN_IDENTITY


@pytest.mark.parametrize("to", ["gamma", "Beta"])
def test_a_message_to_another_hub_is_refused(to) -> None:
    dialed, accepted = run(dialing(to=to, certificate=identity("beta").certificate), accepting())
    assert dialed.reason is accepted.reason is Reason.NOT_ME


def test_an_answer_of_another_hub_than_the_one_dialed_is_refused() -> None:
    def rename(step, raw):
        return raw.replace(b'"from":"beta"', b'"from":"gamma"') if step == "offer" else raw

    dialed, accepted = run(dialing(), accepting(), rename)
    assert dialed.reason is accepted.reason is Reason.NOT_WHOM_I_DIALED
    assert "gamma" in dialed.sentence


def changed(hub_id: str, fingerprint: str) -> bool:
    raise Refused(Reason.IDENTITY_CHANGED, "it is another")


def test_another_identity_than_the_known_one_is_refused_before_the_dialer_proves_anything() -> None:
    with pytest.raises(Refused) as refused:
        dialing(check=changed)
    assert refused.value.reason is Reason.IDENTITY_CHANGED


def test_another_identity_than_the_known_one_is_refused_before_the_acceptor_computes_anything() -> None:
    acceptor = accepting(check=changed)
    with pytest.raises(Refused) as refused:
        acceptor.read_open(dialing().open())
    assert refused.value.reason is Reason.IDENTITY_CHANGED
    dialer = dialing()
    dialer.open()
    raw = refusal_bytes(refused.value)
    assert raw is not None
    with pytest.raises(Refused) as told:
        dialer.prove(raw)
    assert (told.value.reason, told.value.told) == (Reason.IDENTITY_CHANGED, True)
    assert "ecorelay trust" in told.value.remedy


def test_each_side_checks_the_others_fingerprint_under_its_name() -> None:
    seen = []

    def check(hub_id: str, fingerprint: str) -> bool:
        seen.append((hub_id, fingerprint))
        return True

    run(dialing(check=check), accepting(check=check))
    assert seen == [("beta", identity("beta").fingerprint), ("alpha", identity("alpha").fingerprint)]


def test_who_knows_the_secret_but_shows_a_stolen_identity_is_refused() -> None:
    def pretend(step, raw):
        if step == "open":
            return raw.replace(
                identity("mallory").public.hex().encode(), identity("alpha").public.hex().encode()
            )
        return raw

    # Mallory knows the secret, so the transcript is computed over what she really sent.
    mallory = dialing("alpha", who="mallory")
    acceptor = accepting()
    opened = pretend("open", mallory.open())
    mallory._open = opened
    acceptor.read_open(opened)
    with pytest.raises(Refused) as refused:
        acceptor.finish(mallory.prove(acceptor.offer()))
    assert refused.value.reason is Reason.BAD_SIGNATURE
    assert refused.value.failed_proof


# --- somebody in the middle ----------------------------------------------------------------------


def test_a_middle_that_ends_tls_with_its_own_certificate_is_refused_on_both_sides() -> None:
    dialer = dialing(certificate=identity("mallory").certificate)
    dialed, accepted = run(dialer, accepting())
    assert dialed.reason is accepted.reason is Reason.WRONG_SECRET


def test_a_certificate_without_an_ed25519_key_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        dialing(certificate=b"no certificate")
    assert refused.value.reason is Reason.TLS


@functools.cache
def honest() -> dict[str, bytes]:
    """The four messages of a handshake that goes well."""
    seen: dict[str, bytes] = {}

    def note(step, raw):
        seen[step] = raw
        return raw

    run(dialing(), accepting(), note)
    return seen


@given(step=st.sampled_from(STEPS), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_bit_changed_anywhere_is_refused_on_both_sides(step, at, bit) -> None:
    def flip(now, raw):
        if now != step:
            return raw
        changed = bytearray(raw)
        changed[at % len(raw)] ^= 1 << bit
        return bytes(changed)

    dialed, accepted = run(dialing(), accepting(), flip)
    assert isinstance(dialed, Refused), (step, at, bit)
    # The last message has no answer: there the acceptor finds out by the stream that the dialer closes.
    assert isinstance(accepted, Refused) or step == "proved"


@pytest.mark.parametrize("step", ["prove", "proved"])
def test_every_single_bit_of_a_message_that_is_in_no_transcript_counts(step) -> None:
    """All of them: these two are protected by nothing but their own check."""
    dialer, acceptor = dialing(), accepting()
    acceptor.read_open(dialer.open())
    prove = dialer.prove(acceptor.offer())
    raw, check = (prove, acceptor.finish) if step == "prove" else (acceptor.finish(prove)[0], dialer.finish)
    for at in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[at] ^= 1 << bit
            with pytest.raises(Refused):
                check(bytes(changed))
    check(raw)


@given(step=st.sampled_from(STEPS), keep=st.integers(0, 10**6))
def test_a_message_cut_short_is_refused(step, keep) -> None:
    dialed, accepted = run(
        dialing(), accepting(), lambda now, raw: raw[: keep % len(raw)] if now == step else raw
    )
    assert isinstance(dialed, Refused)
    assert isinstance(accepted, Refused) or step == "proved"


@pytest.mark.parametrize("step", STEPS)
def test_a_message_of_an_earlier_handshake_is_refused(step) -> None:
    old = honest()
    dialed, accepted = run(dialing(), accepting(), lambda now, raw: old[step] if now == step else raw)
    assert isinstance(dialed, Refused)
    assert isinstance(accepted, Refused) or step == "proved"


@pytest.mark.parametrize(("step", "other"), [("offer", "open"), ("prove", "offer"), ("proved", "prove")])
def test_a_message_sent_back_to_its_maker_is_refused(step, other) -> None:
    seen = {}

    def reflect(now, raw):
        seen[now] = raw
        return seen[other] if now == step else raw

    dialed, _ = run(dialing(), accepting(), reflect)
    assert isinstance(dialed, Refused)


def test_our_own_element_sent_back_is_refused() -> None:
    dialer = dialing()
    opened = json.loads(dialer.open())
    offer = {
        "type": "offer",
        "version": 1,
        "versions": [1],
        "from": "beta",
        "to": "alpha",
        "ys": [opened["x"]],
    }
    with pytest.raises(Refused) as refused:
        dialer.prove(json.dumps(offer).encode())
    assert refused.value.reason is Reason.GARBAGE


@pytest.mark.parametrize(
    "element",
    [
        "01" + "00" * 31,  # the neutral element
        "00" * 32,  # of order 4
        "ff" * 32,
        "02" + "00" * 31,  # not on the curve
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # of order 8
    ],
)
@pytest.mark.parametrize("side", ["open", "offer"])
def test_no_element_or_one_of_a_small_group_is_refused_on_both_sides(element, side) -> None:
    field = {"open": "x", "offer": "ys"}[side]

    def replace(now, raw):
        if now != side:
            return raw
        message = json.loads(raw)
        message[field] = element if side == "open" else [element]
        return json.dumps(message).encode()

    dialed, accepted = run(dialing(), accepting(), replace)
    assert dialed.reason is accepted.reason is Reason.GARBAGE


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"{}",
        b"[" * 5000,
        b'{"type":"open"}',
        b'{"type":"hello"}',
        b"GET / HTTP/1.1\r\n",
        b"x" * (MESSAGE_MAX + 1),
        b'{"type":"refuse","reason":"' + b"a" * 500 + b'"}',
        b'{"type":"refuse","reason":"\x1b[31m"}',
    ],
)
def test_garbage_is_refused_without_being_quoted(raw) -> None:
    dialer = dialing()
    dialer.open()
    for take in (dialer.prove, accepting().read_open):
        with pytest.raises(Refused) as refused:
            take(raw)
        assert refused.value.reason is Reason.GARBAGE
        assert refused.value.__cause__ is None
        assert refused.value.__context__ is None or refused.value.__suppress_context__


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_a_hub_may_send_is_understood_or_said_to_be_unknown(reason) -> None:
    dialer = dialing()
    dialer.open()
    with pytest.raises(Refused) as told:
        dialer.prove(refusal_bytes(Refused(reason, "a sentence that stays here")) or b"")
    # A wrong signature must not tell its author that the secret was right.
    word = Reason.WRONG_SECRET if reason is Reason.BAD_SIGNATURE else reason
    assert told.value.reason in (word, Reason.UNKNOWN)
    assert told.value.told
    assert "stays here" not in str(told.value)
    assert refusal_bytes(told.value) is None


def test_a_reason_of_a_later_version_is_unknown() -> None:
    dialer = dialing()
    dialer.open()
    with pytest.raises(Refused) as told:
        dialer.prove(b'{"type":"refuse","reason":"moon_phase","later":1}')
    assert told.value.reason is Reason.UNKNOWN


def test_an_unknown_field_of_a_later_version_is_ignored_where_the_transcript_covers_it() -> None:
    dialer, acceptor = dialing(), accepting()
    opened = dialer.open()[:-1] + b',"colour":"blue"}'
    dialer._open = opened
    acceptor.read_open(opened)
    proved, _ = acceptor.finish(dialer.prove(acceptor.offer()))
    assert dialer.finish(proved).hub_id == "beta"


def test_more_or_fewer_proofs_than_offers_are_refused() -> None:
    dialer, acceptor = dialing(), accepting(secrets=(RIGHT, OLD))
    acceptor.read_open(dialer.open())
    prove = json.loads(dialer.prove(acceptor.offer()))
    prove["macs"].pop()
    with pytest.raises(Refused) as refused:
        acceptor.finish(json.dumps(prove, separators=(",", ":")).encode())
    assert refused.value.reason is Reason.GARBAGE


def test_no_message_of_two_handshakes_holds_the_same_element_or_proof() -> None:
    first: dict[str, bytes] = {}
    second: dict[str, bytes] = {}
    run(dialing(), accepting(), lambda now, raw: first.setdefault(now, raw))
    run(dialing(), accepting(), lambda now, raw: second.setdefault(now, raw))
    assert json.loads(first["open"])["x"] != json.loads(second["open"])["x"]
    assert json.loads(first["offer"])["ys"] != json.loads(second["offer"])["ys"]
    assert json.loads(first["prove"])["macs"] != json.loads(second["prove"])["macs"]
    assert json.loads(first["proved"])["mac"] != json.loads(second["proved"])["mac"]


def test_nothing_shows_a_secret() -> None:
    dialer, acceptor = dialing(), accepting()
    acceptor.read_open(dialer.open())
    acceptor.offer()
    shown = [dialer, acceptor, dialer._exchange, password(), Secret(RIGHT), dialer._me, identity("alpha")]
    dialed, accepted = run(dialing(), accepting())
    shown += [dialed, accepted, *run(dialing(secret=WRONG), accepting())]
    text = " ".join(f"{each!r} {each}" for each in shown)
    for private in (RIGHT, WRONG, password()._derived.hex(), repr(password()._derived)):
        assert private not in text


@pytest.mark.parametrize("with_instance", [True, False])
def test_the_instance_is_vouched_for_by_both_and_an_older_program_has_none(with_instance) -> None:
    ones, twos = ("1" * 32, "2" * 32) if with_instance else ("", "")
    dialer, acceptor = dialing(), accepting()
    dialer._me = party("alpha", instance=ones)
    acceptor._me = party("beta", instance=twos)
    dialed, accepted = run(dialer, acceptor)
    assert (dialed.instance, accepted.instance) == (twos, ones)


def test_two_connections_with_somebody_between_have_two_transcripts() -> None:
    """He has everything but the secret: the right certificate, and every message passed on unchanged."""
    dialed, accepted = run(dialing(binding=b"1" * 48), accepting(binding=b"2" * 48))
    assert dialed.reason is accepted.reason is Reason.WRONG_SECRET
