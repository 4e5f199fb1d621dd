"""One entry of ours in JSON with comments: nothing of anybody else's moves."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, strategies as st

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import entry_file, json_entry

PATH = ("mcpServers", "ecorelay")
VALUES: dict[str, Any] = {"command": "/opt/é/ecorelay", "args": ["mcp"], "env": {"A": "1"}, "trust": True}

ENTRY = """\
    "ecorelay": {
      "command": "/opt/é/ecorelay",
      "args": [
        "mcp"
      ],
      "env": {
        "A": "1"
      },
      "trust": true
    }
"""


def put(text: str, values: dict[str, Any] | None = None) -> str:
    return json_entry.put(text, PATH, VALUES if values is None else values, "x.json")


def take_out(text: str) -> str:
    return json_entry.take_out(text, PATH, "x.json")


# --- a text that cannot be read ------------------------------------------------------------------------

BROKEN = {
    "no value": ('{\n  "a":\n}', "a value is expected at line 3, column 1"),
    "no comma": ('{\n  "a": 1\n  "b": 2\n}', ", or } is expected at line 3, column 3"),
    "no colon": ('{"a" 1}', ": is expected at line 1, column 6"),
    "two commas": ('{"a": 1,, "b": 2}', 'a name in " is expected at line 1, column 9'),
    "only a comma": ("{,}", 'a name in " is expected at line 1, column 2'),
    "only a comma in a list": ('{"a": [,]}', "a value is expected at line 1, column 8"),
    "no end": ('{\n  "a": {\n', "at line 3, column 1"),
    "no end of a list": ('{"a": [1', ", or ] is expected at line 1, column 9"),
    "wrong end": ('{"a": [1}', ", or ] is expected at line 1, column 9"),
    "open string": ('{"a": "b\n}', "a string that does not end at line 1, column 9"),
    "open string at the end": ('{"a', "a string that does not end at line 1, column 4"),
    "bad escape": ('{"a": "\\x41"}', "a bad escape at line 1, column 8"),
    "short escape": ('{"a": "\\u00"}', "a bad escape at line 1, column 8"),
    "tab in a string": ('{"a": "\t"}', "line 1, column 8"),
    "open comment": ("{} /* never", "a comment that does not end at line 1, column 4"),
    "stray slash": ("{} / x", "a stray / at line 1, column 4"),
    "two objects": ("{}\n{}", "nothing more is expected at line 2, column 1"),
    "merge mark": ("<<<<<<< HEAD\n{}", "an object is expected at line 1, column 1"),
    "a list": ("[]", "an object is expected at line 1, column 1"),
    "toml": ("[mcp]\na = 1\n", "an object is expected at line 1, column 1"),
    "bare name": ("{a: 1}", 'a name in " is expected at line 1, column 2'),
    "single quotes": ("{'a': 1}", 'a name in " is expected at line 1, column 2'),
    "python": ('{"a": True}', "a value is expected at line 1, column 7"),
    "no number": ('{"a": 01}', "a value is expected at line 1, column 7"),
    "infinite": ('{"a": Infinity}', "a value is expected at line 1, column 7"),
    "plus": ('{"a": +1}', "a value is expected at line 1, column 7"),
    "dot": ('{"a": 1.}', "a value is expected at line 1, column 7"),
    "word and more": ('{"a": nullx}', "a value is expected at line 1, column 7"),
    "windows lines": ('{\r\n  "a": 1\r\n  "b"\r\n}', "line 3, column 3"),
    "byte order mark": ('\ufeff{"a" 1}', "line 1, column 6"),
    "too deep": ('{"a":' * 3000 + "1" + "}" * 3000, "nested too deeply at line 1, column 501"),
    "too deep lists": ('{"a":' + "[" * 100000, "nested too deeply"),
    "NUL": ('{"a": 1}\0', "nothing more is expected at line 1, column 9"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_text_is_refused_with_the_place(case: str):
    text, place = BROKEN[case]
    for change in (put, take_out, lambda text: json_entry.parse(text, "x.json")):
        with pytest.raises(RelayError) as raised:
            change(text)
        assert raised.value.code == "bad_args"
        assert raised.value.message.startswith("x.json is no valid JSON (")
        assert place in raised.value.message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"mcpServers": 3}', "mcpServers in x.json is no object"),
        ('{"mcpServers": null}', "mcpServers in x.json is no object"),
        ('{"mcpServers": []}', "mcpServers in x.json is no object"),
        ('{"mcpServers": {"ecorelay": "x"}}', "mcpServers.ecorelay in x.json is no object"),
    ],
)
def test_something_else_in_our_place_is_refused(text: str, what: str):
    with pytest.raises(RelayError, match=what):
        put(text)


def test_a_path_that_is_no_text_is_refused():
    with pytest.raises(RelayError, match="no UTF-8"):
        put("{}", {"command": "/opt/\udc80"})


# --- exactly these texts -------------------------------------------------------------------------------

WHOLE = '{\n  "mcpServers": {\n' + ENTRY + "  }\n}"
ONE_LINE = json.dumps(VALUES, ensure_ascii=False)
PUT = {
    "nothing": ("", WHOLE + "\n"),
    "a byte order mark": ("\ufeff", "\ufeff" + WHOLE + "\n"),
    "a comment": ("// mine", "// mine\n" + WHOLE + "\n"),
    "an empty object": ("{}", WHOLE),
    "an empty object and an end": ("{}\n", WHOLE + "\n"),
    "an open empty object": ("{\n}\n", WHOLE + "\n"),
    "an empty parent": ('{\n  "mcpServers": {}\n}\n', WHOLE + "\n"),
    "another server": (
        '{\n  "mcpServers": {\n    "a": {} // one\n    // the end\n  },\n  "b": 1\n}',
        '{\n  "mcpServers": {\n    "a": {}, // one\n    // the end\n' + ENTRY + '  },\n  "b": 1\n}',
    ),
    "a comma at the end": (
        '{\n  "mcpServers": {\n    "a": {},\n  },\n}',
        '{\n  "mcpServers": {\n    "a": {},\n' + ENTRY[:-1] + ",\n  },\n}",
    ),
    "one line": (
        '{"a": 1, "mcpServers": {"b": {}}}\n',
        '{"a": 1, "mcpServers": {"b": {}, "ecorelay": ' + ONE_LINE + "}}\n",
    ),
    "one airy line": (
        '{ "a": 1 /* one */ }',
        '{ "a": 1, /* one */ "mcpServers": {"ecorelay": ' + ONE_LINE + "} }",
    ),
    "tabs": ('{\n\t"a": 1\n}\n', '{\n\t"a": 1,\n' + WHOLE[2:].replace("  ", "\t") + "\n"),
    "windows": (
        '{\r\n    "a": 1\r\n}\r\n',
        '{\r\n    "a": 1,\r\n' + WHOLE[2:].replace("  ", "    ").replace("\n", "\r\n") + "\r\n",
    ),
}


@pytest.mark.parametrize("case", PUT)
def test_what_is_new_is_written_like_what_is_around_it(case: str):
    before, after = PUT[case]
    assert put(before) == after
    assert put(after) == after


ENTRIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "nothing changes": (
        '{"mcpServers": {"ecorelay": {"trust": true, "args": [ "mcp" ], /* ! */ "x": null}}}',
        {"trust": True, "args": ["mcp"]},
        '{"mcpServers": {"ecorelay": {"trust": true, "args": [ "mcp" ], /* ! */ "x": null}}}',
    ),
    "one member changes": (
        '{"mcpServers": {"ecorelay": {"command": /* old */ "old", "x": 1}}}',
        {"command": "new"},
        '{"mcpServers": {"ecorelay": {"command": /* old */ "new", "x": 1}}}',
    ),
    "true is not 1": (
        '{"mcpServers": {"ecorelay": {"trust": 1}}}',
        {"trust": True},
        '{"mcpServers": {"ecorelay": {"trust": true}}}',
    ),
    "an object within": (
        '{"mcpServers": {"ecorelay": {"env": {"A": "1" /* a */}}}}',
        {"env": {"B": "2"}},
        '{"mcpServers": {"ecorelay": {"env": {"A": "1", /* a */ "B": "2"}}}}',
    ),
    "an object in place of something else": (
        '{"mcpServers": {"ecorelay": {"env": null}}}',
        {"env": {"B": "2"}},
        '{"mcpServers": {"ecorelay": {"env": {"B": "2"}}}}',
    ),
    "the last of two counts": (
        '{"mcpServers": {"ecorelay": {"a": 1, "a": 2}, "ecorelay": {"b": 1, "b": 2}}}',
        {"b": 3},
        '{"mcpServers": {"ecorelay": {"a": 1, "a": 2}, "ecorelay": {"b": 1, "b": 3}}}',
    ),
    "a list and a new member": (
        '{\n  "mcpServers": {\n    "ecorelay": {\n      "args": ["a"] // args\n    }\n  }\n}\n',
        {"args": ["b"], "c": []},
        '{\n  "mcpServers": {\n    "ecorelay": {\n      "args": [\n        "b"\n      ], // args\n'
        '      "c": []\n    }\n  }\n}\n',
    ),
    "a name in escapes": (
        '{"mcpServers": {"eco\\u0072elay": {"a": 1}}}',
        {"a": 2},
        '{"mcpServers": {"eco\\u0072elay": {"a": 2}}}',
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_an_entry_is_brought_up_to_date_member_by_member(case: str):
    before, values, after = ENTRIES[case]
    assert put(before, values) == after


TAKEN = {
    "only ours": (WHOLE, "{}"),
    "a comment is nobody's": ('{ // mine\n  "mcpServers": {"ecorelay": {}} }', "{ // mine\n }"),
    "a comment in the parent": (
        '{"mcpServers": {"ecorelay": {} /* keep? */}, "a": 1}',
        '{"a": 1}',
    ),
    "the first": ('{"mcpServers": {"ecorelay": {}, "b": 1}}', '{"mcpServers": {"b": 1}}'),
    "the first of lines": (
        '{"mcpServers": {\n  "ecorelay": {},\n  "b": 1\n}}',
        '{"mcpServers": {\n  "b": 1\n}}',
    ),
    "in the middle": (
        '{"mcpServers": {"a": 1, "ecorelay": {}, "b": 1}}',
        '{"mcpServers": {"a": 1, "b": 1}}',
    ),
    "the last": ('{"mcpServers": {"a": 1, "ecorelay": {}}}', '{"mcpServers": {"a": 1}}'),
    "after a comment": (
        '{"mcpServers": {"a": 1, // a\n"ecorelay": {}}}',
        '{"mcpServers": {"a": 1 // a\n}}',
    ),
    "comments around the comma": (
        '{"mcpServers": {"a": 1, "ecorelay": {} /* x */ , /* y */ "b": 1}}',
        '{"mcpServers": {"a": 1, /* x */  /* y */ "b": 1}}',
    ),
    "every one of the name": (
        '{"mcpServers": {"ecorelay": 1, "a": 1, "ecorelay": {}}}',
        '{"mcpServers": {"a": 1}}',
    ),
    "one before it would count": (
        '{"mcpServers": {"a": 1}, "mcpServers": {"ecorelay": {}}}',
        '{"mcpServers": {"a": 1}, "mcpServers": {}}',
    ),
    "not there": ('{"mcpServers": {"a": {}}, "ecorelay": 1}', '{"mcpServers": {"a": {}}, "ecorelay": 1}'),
    "nothing there": ("// x", "// x"),
    "no object there": ('{"mcpServers": [1]}', '{"mcpServers": [1]}'),
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken_out_the_rest_stays(case: str):
    before, after = TAKEN[case]
    assert take_out(before) == after
    assert take_out(after) == after


def test_a_single_member_is_put_and_taken_out_too():
    text = '{\n  // mine\n  "a": 1\n}\n'
    changed = json_entry.put(text, (), {"experimental": True}, "x")
    assert changed == '{\n  // mine\n  "a": 1,\n  "experimental": true\n}\n'
    assert json_entry.take_out(changed, ("experimental",), "x") == text


# --- an item of a list ---------------------------------------------------------------------------------

STOP = ("hooks", "stop")


def _ours(item: object) -> bool:
    return isinstance(item, dict) and "ours" in item.get("command", "")


def put_item(text: str, **item: Any) -> str:
    return json_entry.put_item(text, STOP, item, _ours, "x.json")


def take_item(text: str) -> str:
    return json_entry.take_item(text, STOP, _ours, "x.json")


def test_an_item_stands_among_those_of_others():
    text = '{\n  "hooks": {\n    "stop": [\n      { "command": "theirs" } // theirs\n    ]\n  }\n}\n'
    changed = put_item(text, command="ours 1", n=1)
    assert changed == (
        '{\n  "hooks": {\n    "stop": [\n      { "command": "theirs" }, // theirs\n      {\n'
        '        "command": "ours 1",\n        "n": 1\n      }\n    ]\n  }\n}\n'
    )
    assert put_item(changed, command="ours 1", n=1) == changed
    again = put_item(changed, command="ours 2")
    assert again == changed.replace("ours 1", "ours 2")
    assert take_item(again) == text
    assert take_item(text) == text


def test_a_list_that_is_not_there_is_made_and_goes_again():
    assert json_entry.parse(put_item("", command="ours"), "x") == {"hooks": {"stop": [{"command": "ours"}]}}
    assert take_item(put_item('{"version": 1}', command="ours")) == '{"version": 1}'
    assert take_item(put_item('{"hooks": {"a": []}}', command="ours")) == '{"hooks": {"a": []}}'


def test_every_item_of_ours_is_taken_out():
    text = '{"hooks": {"stop": [{"command": "ours"}, 3, {"command": "ours too"}, null]}}'
    assert take_item(text) == '{"hooks": {"stop": [3, null]}}'
    text = '{"hooks": {"stop": [{"command": "ours"}, {"command": "ours too"}, 3]}}'
    assert take_item(text) == '{"hooks": {"stop": [3]}}'


@pytest.mark.parametrize("text", ['{"hooks": []}', '{"hooks": {"stop": {}}}', '{"hooks": {"stop": "x"}}'])
def test_something_else_in_place_of_the_list_is_refused(text: str):
    with pytest.raises(RelayError, match="mend it first"):
        put_item(text, command="ours")
    assert take_item(text) == text


# --- any text ------------------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "mcpServers", "ecorelay", "env", "//", "/*", "é\n", ""])
SCALARS = st.sampled_from(["1", "-0.5e3", "true", '"x"', '"// no"', '"/* \\" */"', '"é"', "[ ]", "{}"])
BLANK = st.sampled_from(["", " ", "\n", "\n  ", "\t", "\r\n\t", "\n\n    "])
COMMENT = st.sampled_from(["/* } */", "// , {\n", '/* " \n */', "//\n", "/**/", "// é\r\n"])
TRIVIA = st.lists(st.one_of(BLANK, COMMENT), max_size=3).map("".join)


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[str], keys: st.SearchStrategy[str] | None) -> str:
    parts = []
    count = draw(st.integers(0, 3))
    for number in range(count):
        name = "" if keys is None else json.dumps(draw(keys)) + draw(TRIVIA) + ":" + draw(TRIVIA)
        last = number == count - 1
        comma = "," if not last or draw(st.booleans()) else ""
        parts.append(draw(TRIVIA) + name + draw(inner) + draw(TRIVIA) + comma)
    inside = "".join(parts) + draw(TRIVIA)
    return f"[{inside}]" if keys is None else f"{{{inside}}}"


VALUE = st.recursive(
    SCALARS, lambda inner: st.one_of(containers(inner, KEYS), containers(inner, None)), max_leaves=8
)
ENTRY_TEXT = containers(SCALARS, st.sampled_from(["command", "args", "x", "trust"]))
SERVERS = containers(st.one_of(ENTRY_TEXT, VALUE), st.sampled_from(["a", "b", "ecorelay"]))
TOP = containers(st.one_of(SERVERS, VALUE), st.sampled_from(["mcpServers", "a", "hooks"]))
WITHOUT = containers(
    st.one_of(containers(VALUE, st.sampled_from(["a", "b"])), VALUE), st.sampled_from(["mcpServers", "c"])
)


@st.composite
def texts(draw: st.DrawFn, top: st.SearchStrategy[str]) -> str:
    return draw(st.sampled_from(["", "\ufeff"])) + draw(TRIVIA) + draw(top) + draw(TRIVIA)


@given(texts(TOP), st.sampled_from([VALUES, {"args": []}, {"x": {"y": [1]}}, {}]))
def test_any_text_has_the_values_then_and_all_else_as_before(text: str, values: dict[str, Any]):
    before = json_entry.parse(text, "x")
    try:
        changed = put(text, values)
    except RelayError:
        servers = before["mcpServers"]
        assert not isinstance(servers, dict) or not isinstance(servers["ecorelay"], dict)
        return
    after = json_entry.parse(changed, "x")
    entry = after["mcpServers"].pop("ecorelay")
    old = before.setdefault("mcpServers", {}).pop("ecorelay", {})
    assert after == before
    for key in {*entry, *old}:
        assert entry[key] == values.get(key, old.get(key)) or isinstance(values[key], dict)
    assert put(changed, values) == changed
    for comment in ("/* } */", "// , {", "// é"):
        kept = text.count(comment) - changed.count(comment)
        assert kept == 0 or values.get("args") == [] or "x" in values or "args" in old or "command" in old
    gone = json_entry.parse(take_out(changed), "x")
    assert gone.get("mcpServers", {}) == before["mcpServers"]


@given(texts(WITHOUT))
def test_taken_out_again_any_text_is_what_it_was(text: str):
    before = json_entry.parse(text, "x")
    servers = before.get("mcpServers", {"a": 1})
    # What of an empty object was ours, only the file as it was can tell: see entry_file.
    assume(before and isinstance(servers, dict) and servers and "ecorelay" not in servers)
    assert take_out(put(text)) == text


@given(texts(TOP))
def test_any_file_is_what_it_was_afterwards_what_was_empty_too(text: str):
    servers = json_entry.parse(text, "x").get("mcpServers", {})
    assume(isinstance(servers, dict) and "ecorelay" not in servers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "settings.json")
        path.write_bytes(text.encode())
        ours = entry_file.Table(format=json_entry, path=PATH, values=lambda entry: VALUES)
        for make in (entry_file.installing, entry_file.removing):
            [step] = make(path, ours, "")
            step.do()
        assert path.read_bytes() == text.encode()
        assert os.listdir(folder) == ["settings.json"]


@example('{"mcpServers":{"a":{},// c\n"ecorelay":{},\n"ecorelay":{}}}')
@given(texts(TOP))
def test_any_text_loses_our_entry_and_no_other(text: str):
    before = json_entry.parse(text, "x")
    left = take_out(text)
    servers = before.get("mcpServers")
    if not isinstance(servers, dict) or "ecorelay" not in servers:
        assert left == text
        return
    del servers["ecorelay"]
    after = json_entry.parse(left, "x")
    assert after.pop("mcpServers", {}) == before.pop("mcpServers")
    assert after == before


@given(texts(containers(containers(VALUE, st.sampled_from(["stop", "a"])), st.sampled_from(["hooks", "a"]))))
def test_an_item_goes_into_any_list_and_comes_out_of_it(text: str):
    before = json_entry.parse(text, "x")
    hooks = before.get("hooks", {"stop": [1]})
    assume(before and isinstance(hooks, dict) and hooks)
    stop = hooks.get("stop", [1])
    assume(isinstance(stop, list) and stop)
    changed = put_item(text, command="ours")
    assert json_entry.items(json_entry.parse(changed, "x"), STOP)[-1] == {"command": "ours"}
    assert take_item(changed) == text


@given(st.text(alphabet='{}[]",:/*\\\n\r \tatrue10.eu-\ufeff', max_size=30))
def test_what_the_standard_library_reads_is_read_alike_and_nothing_else_raises(text: str):
    try:
        plain = json.loads(text.removeprefix("\ufeff"))
    except ValueError:
        plain = None
    try:
        found = json_entry.parse(text, "x")
    except RelayError:
        assert not isinstance(plain, dict)
        return
    if isinstance(plain, dict):
        assert found == plain
