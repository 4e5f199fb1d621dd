"""Whatever strangers send and people write: nothing but the errors that are meant for it."""

from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

from hypothesis import example, given, strategies as st

from ecorelay.config import ConfigError
from ecorelay.errors import WireError
from ecorelay_relay_server import websocket
from ecorelay_relay_server.door import behind, source_of
from ecorelay_relay_server.head import plain_answer, read_head
from ecorelay_relay_server.judge import normal
from ecorelay_relay_server.settings import parse_settings
from tests.relay_server.test_websocket import handshake

FIELDS = ["port", "secret", "previous_secret", "bind", "tls_cert", "tls_key", "max_hubs", "realms", "urls"]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.binary(max_size=200), max_size=5))
@example([b"\x88\x82\0\0\0\0\x03"])
@example([b"\x81\xfe\xff\xff\0\0\0\0"])
def test_any_bytes_after_the_handshake_are_messages_or_a_wire_error(chunks):
    _, server, _ = handshake(limit=100)
    with suppress(WireError):
        for chunk in chunks:
            for each in server.feed(chunk):
                assert each is None or not isinstance(each, str | bytes) or len(each) <= 100


@given(st.binary(max_size=300))
@example(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
def test_any_request_gets_an_answer(data):
    head = read_head(data)
    assert plain_answer(head).startswith(b"HTTP/1.1 ")
    with suppress(websocket.Refusal):
        websocket.accept(data)


@given(st.text(max_size=60))
@example("[::1")
@example("1.2.3.4%5,::%x")
def test_any_text_of_a_proxy_is_an_address_or_nothing(text):
    found = behind(text, (ip_network("127.0.0.0/8"),))
    if found:
        source_of(found)
    source_of(text)
    normal(text)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), anything, max_size=6))
def test_any_object_is_a_configuration_or_a_list_of_mistakes(table):
    with suppress(ConfigError):
        parse_settings(table, Path("/nowhere/relay-config.json"), {})
