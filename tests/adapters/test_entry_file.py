"""What is ours in a settings file of somebody else's, on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ecorelay.errors import RelayError
from ecorelay_adapters.clients import entry_file, files, folders, json_entry, toml_entry
from ecorelay_adapters.clients.entry_file import Table, backup_path

VALUES = {"command": "/opt/ecorelay", "args": ["mcp"]}
JSON = '{\n  // mine\n  "mcpServers": {\n    "other": {},\n  },\n}\n'


def table(values: Mapping[str, Any] = VALUES, **more: Any) -> Table:
    given: dict[str, Any] = {"format": json_entry, "path": ("mcpServers", "ecorelay"), **more}
    return Table(values=lambda entry: values, **given)


def put(path: Path, ours: Table | None = None) -> int:
    steps = entry_file.installing(path, ours or table(), "put it in")
    for step in steps:
        step.do()
    return len(steps)


def take_out(path: Path, ours: Table | None = None) -> int:
    steps = entry_file.removing(path, ours or table(), "take it out")
    for step in steps:
        step.do()
    return len(steps)


# --- what cannot be changed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b'{"a": "\xff"}', "no UTF-8 .at line 1, column 8"),
        ("{}".encode("utf-16"), "no UTF-8"),
        (b'{"mcpServers": []}', "mcpServers in .* is no object"),
        (b"[1]", "an object is expected at line 1, column 1"),
    ],
)
def test_a_broken_file_is_refused_and_not_touched(tmp_path: Path, data: bytes, what: str):
    path = tmp_path / "settings.json"
    path.write_bytes(data)
    with pytest.raises(RelayError, match=what):
        put(path)
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["settings.json"]


def test_a_file_far_too_large_is_refused_whole(tmp_path: Path):
    path = tmp_path / "settings.json"
    with open(path, "wb") as file:
        file.write(b"{}\n")
        file.truncate(files.FILE_MAX + 1)
    with pytest.raises(RelayError, match="larger than 8 MiB"):
        entry_file.find(path, table())


def test_a_file_that_turned_read_only_or_broken_since_the_plan_stays(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text(JSON)
    [step] = entry_file.installing(path, table(), "")
    path.chmod(0o444)
    with pytest.raises(RelayError, match="read-only"):
        step.do()
    path.chmod(0o644)
    path.write_text("{")
    with pytest.raises(RelayError, match="line 1, column 2"):
        step.do()
    assert path.read_text() == "{"
    assert os.listdir(tmp_path) == ["settings.json"]


@pytest.mark.skipif(os.name == "nt", reason="folders of another mode")
def test_a_folder_in_the_way_of_the_backup_is_told_and_the_file_not_touched(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text(JSON)
    backup_path(path).mkdir()
    with pytest.raises(RelayError) as raised:
        put(path)
    assert raised.value.code == "mailbox_error"
    assert path.read_text() == JSON


# --- put in and taken out ------------------------------------------------------------------------------

TEXTS = {
    "comments": JSON,
    "empty": "",
    "blank": " \n\n",
    "only a mark": "\ufeff",
    "only a comment": "// mine\n",
    "only a comment, no end": "/* mine */",
    "empty object": "{}",
    "open empty object": "{\n}\n",
    "airy empty object": "{ }",
    "a comment within": "{ /* mine */ }\n",
    "a comment line within": "{\n  // mine\n}",
    "empty servers": '{"mcpServers": {}}',
    "open empty servers": '{\n\t"mcpServers": {\n\t}\n}',
    "a comment in empty servers": '{"a": 1, "mcpServers": { /* none */ }}',
    "one line": '{"mcpServers":{"a":{}},"b":[1,2]}',
    "windows": '{\r\n    "a": 1,\r\n    "mcpServers": {}\r\n}\r\n',
    "a mark and tabs": '\ufeff{\n\t"a": 1\n}',
    "twice": '{"mcpServers": {"a": 1}, "mcpServers": {"a": 2}}\n',
    "twice and empty": '{"mcpServers": {"a": 1}, "mcpServers": {}}\n',
    "mixed lines": '{\n "a": 1,\r\n "b": 2}',
}


@pytest.mark.parametrize("case", TEXTS)
def test_taken_out_again_every_byte_and_the_mode_are_as_they_were(tmp_path: Path, case: str):
    path = tmp_path / "settings.json"
    data = TEXTS[case].encode()
    path.write_bytes(data)
    path.chmod(0o640)
    before = json_entry.parse(data.decode(), "x")
    assert put(path) == 1
    after = json_entry.parse(path.read_bytes().decode(), "x")
    assert after.pop("mcpServers") == {**before.pop("mcpServers", {}), "ecorelay": VALUES}
    assert after == before
    assert backup_path(path).read_bytes() == data
    for each in (path, backup_path(path)):
        assert each.stat().st_mode & 0o777 == 0o640
    changed = path.read_bytes()
    assert put(path) == 0
    assert entry_file.is_current(path, table())
    assert path.read_bytes() == changed

    assert take_out(path) == 1
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["settings.json"]
    assert take_out(path) == 0


@pytest.mark.parametrize("case", TEXTS)
def test_what_others_changed_since_stays(tmp_path: Path, case: str):
    path = tmp_path / "settings.json"
    path.write_bytes(TEXTS[case].encode())
    before = json_entry.parse(TEXTS[case], "x")
    put(path)
    path.write_bytes(json_entry.put(path.read_bytes().decode(), ("later",), {"x": 1}, "x").encode())
    assert take_out(path) == 1
    left = json_entry.parse(path.read_bytes().decode(), "x")
    assert left.pop("later") == {"x": 1}
    if not before.get("mcpServers", True):  # what is empty says nothing
        left.setdefault("mcpServers", {})
    assert left == before


def test_without_a_file_there_is_none_afterwards_whatever_became_of_the_entry(tmp_path: Path):
    path = tmp_path / "new" / "settings.json"
    put(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text().replace('"mcp"', '"mcp" /* changed */'))
    take_out(path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mark", ["", "[", "7", '["../../x", 3]', "[" * 100_000, None])
def test_a_note_of_made_folders_that_somebody_changed_does_no_harm(tmp_path: Path, mark: str | None):
    path = tmp_path / "new" / "deeper" / "settings.json"
    put(path)
    note = tmp_path / "new" / folders.MARK
    if mark is None:
        note.unlink()
        note.mkdir()
    else:
        note.write_text(mark)
    put(path, table({"command": "/moved"}))
    take_out(path)
    assert not path.exists()
    assert (tmp_path / "new").is_dir()  # an empty folder may stay, and nothing else goes


def test_a_folder_that_somebody_else_uses_since_stays(tmp_path: Path):
    path = tmp_path / "new" / "deeper" / "settings.json"
    put(path)
    (tmp_path / "new" / "theirs").mkdir()
    take_out(path)
    assert [*tmp_path.rglob("*")] == [tmp_path / "new", tmp_path / "new" / "theirs"]


def test_a_file_that_is_long_is_not_shown_whole_and_a_script_not_at_all(tmp_path: Path):
    long = table({"args": [str(n) for n in range(100)]})
    [step] = entry_file.installing(tmp_path / "a.json", long, "")
    assert (len(step.diff), step.diff[-1]) == (files.DIFF_MAX + 2, "  …")
    [step] = entry_file.installing(tmp_path / "a.js", table(), "")
    assert step.diff == ("+ a.js",)


def test_a_backup_of_another_time_is_not_brought_back(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text('{"old": 1}')
    put(path)
    path.write_text("{}")  # the entry was taken out by hand, and all else too
    assert take_out(path) == 0
    put(path)
    assert backup_path(path).read_text() == "{}"
    path.unlink()
    put(path)
    assert not backup_path(path).exists()
    take_out(path)
    assert os.listdir(tmp_path) == []


def test_a_person_who_changed_the_entry_gets_the_rest_back(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text('{"mcpServers": {}}')
    put(path)
    path.write_text(json_entry.put(path.read_text(), ("mcpServers", "ecorelay"), {"mine": [1]}, "x"))
    assert put(path, table({"command": "/moved"})) == 1
    assert entry_file.find(path, table()) == {"command": "/moved", "args": ["mcp"], "mine": [1]}
    take_out(path)
    assert path.read_text() == '{"mcpServers": {}}'


def test_links_stay_links_even_where_they_lead_nowhere_yet(tmp_path: Path):
    real = tmp_path / "dotfiles" / "settings.json"
    path = tmp_path / "settings.json"
    path.symlink_to(real)
    put(path)
    assert path.is_symlink()
    assert "ecorelay" in real.read_text()
    real.write_text(JSON)
    put(path)
    take_out(path)
    assert path.is_symlink()
    assert real.read_text() == JSON
    real.unlink()
    real.parent.rmdir()
    put(path)
    take_out(path)
    assert path.is_symlink()
    assert os.listdir(tmp_path) == ["settings.json"]


def test_the_change_is_made_to_the_file_as_it_is_then(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text(JSON)
    [step] = entry_file.installing(path, table(), "")
    assert any(line.strip().startswith('+    "ecorelay": {') for line in step.diff)
    path.write_text('{"other": 1}')
    step.do()
    assert json_entry.parse(path.read_text(), "x")["other"] == 1
    [step] = entry_file.removing(path, table(), "")
    path.write_text(path.read_text().replace("1", "2"))
    step.do()
    assert path.read_text() == '{"other": 2}'
    step.do()
    assert path.read_text() == '{"other": 2}'


def test_toml_is_a_format_too(tmp_path: Path):
    path = tmp_path / "config.toml"
    path.write_text('# mine\n[a]\nb = 1 # "\n')
    ours = table(format=toml_entry, path=("mcp_servers", "ecorelay"))
    assert put(path, ours) == 1
    assert entry_file.find(path, ours) == VALUES
    assert take_out(path, ours) == 1
    assert path.read_text() == '# mine\n[a]\nb = 1 # "\n'
