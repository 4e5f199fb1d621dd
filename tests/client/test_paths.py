"""The data directory, files that are only ours, and sockets whose path is too long."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from ecorelay import paths as paths_module
from ecorelay.errors import RelayError
from ecorelay.paths import (
    Paths,
    choose_socket_path,
    find_paths,
    make_private_dir,
    refuse_unsafe_dir,
    write_private,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners of POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- where ---------------------------------------------------------------------------------------------


def test_ecorelay_home_names_the_data_directory():
    found = find_paths({"ECORELAY_HOME": "/srv/relay/../hub", "HOME": "/home/alice"})
    assert found.home == Path("/srv/hub")
    assert found.endpoint == Path("/srv/hub/hub.json")
    assert {path.name for path in vars(found).values()} == {
        "hub",
        "hub.json",
        "hub.sock",
        "hub.lock",
        "start.lock",
        "hub.db",
        "hub.log",
        "adapter.log",
        "config.toml",
        "bridge.json",
        "texts",
        "bells",
        "links",
    }


def test_a_tilde_in_ecorelay_home_is_the_user(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/alice")
    assert find_paths({"ECORELAY_HOME": "~/hub"}).home == Path("/home/alice/hub")


def test_a_relative_ecorelay_home_is_refused():
    with pytest.raises(RelayError, match="ECORELAY_HOME is 'hub': it must be an absolute path") as caught:
        find_paths({"ECORELAY_HOME": "hub"})
    assert caught.value.code == "bad_args"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_default_is_where_platformdirs_puts_user_data(monkeypatch: pytest.MonkeyPatch, platform: str):
    unix = pytest.importorskip("platformdirs.macos" if platform == "darwin" else "platformdirs.unix")
    kind = unix.MacOS if platform == "darwin" else unix.Unix
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert str(find_paths({"HOME": "/home/alice"}).home) == kind("ecorelay", appauthor=False).user_data_dir


def test_nothing_else_in_the_environment_moves_the_data_directory():
    plain = find_paths({"HOME": "/home/alice", "ECORELAY_HOME": ""}).home
    assert plain == Path("/home/alice/.local/share/ecorelay")
    assert find_paths({"HOME": "/home/alice", "XDG_DATA_HOME": "/snap/code/1", "PWD": "/x"}).home == plain


def test_a_home_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch):
    for environ in ({"HOME": "alice"}, {}):
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
        with pytest.raises(RelayError, match="your home directory is not known: set HOME or ECORELAY_HOME"):
            find_paths(environ)
    with pytest.raises(RelayError, match="'~nobody/hub': it must be an absolute path"):
        find_paths({"ECORELAY_HOME": "~nobody/hub"})


# --- private directories ---------------------------------------------------------------------------------


@pytest.mark.guarantee("secrets-and-modes-0600")
def test_missing_directories_are_made_for_the_owner_alone(tmp_path: Path):
    old = os.umask(0)
    try:
        make_private_dir(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700


def test_each_new_directory_is_made_durable_in_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[Path] = []
    monkeypatch.setattr(paths_module, "sync_dir", synced.append)
    make_private_dir(tmp_path / "a" / "b")
    make_private_dir(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]


def test_a_directory_that_is_there_is_taken_as_it_is(tmp_path: Path):
    tmp_path.chmod(0o755)
    make_private_dir(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_symbolic_link_to_a_directory_of_ours_will_do_unless_others_could_have_made_it(tmp_path: Path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("real")
    make_private_dir(tmp_path / "link")
    with pytest.raises(RelayError, match="is in the way and is no directory"):
        make_private_dir(tmp_path / "link", follow=False)


@pytest.mark.parametrize("bits", [0o770, 0o702, 0o777])
def test_a_directory_others_can_write_to_is_refused(tmp_path: Path, bits: int):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(bits)
    with pytest.raises(RelayError, match="can be written by others: chmod 700 it, or name another") as caught:
        make_private_dir(tmp_path / "open")
    assert caught.value.code == "bad_args"


def test_a_directory_of_another_user_is_refused(tmp_path: Path):
    found = list(tmp_path.stat())
    found[stat.ST_UID] += 1
    with pytest.raises(RelayError, match=rf"belongs to user id {found[stat.ST_UID]}, not to you"):
        refuse_unsafe_dir(tmp_path, os.stat_result(found))


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RelayError, match="file is in the way and is no directory"):
        make_private_dir(tmp_path / "file")
    with pytest.raises(RelayError, match=r"cannot make the directory .*file/below: Not a directory"):
        make_private_dir(tmp_path / "file" / "below")


def test_two_processes_may_make_the_directory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def mkdir_after_another(path: Path, mode: int) -> None:
        os.mkdir(path, mode)
        raise FileExistsError

    monkeypatch.setattr(Path, "mkdir", mkdir_after_another)
    make_private_dir(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o700


# --- private files -----------------------------------------------------------------------------------------


@pytest.mark.guarantee("secrets-and-modes-0600")
@pytest.mark.parametrize("durable", [False, True])
def test_a_private_file_is_for_the_owner_alone_and_replaces_the_old_one(tmp_path: Path, durable: bool):
    path = tmp_path / "hub.json"
    path.write_text("old")
    path.chmod(0o644)
    old = os.umask(0)
    try:
        write_private(path, b"new", durable=durable)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600
    assert os.listdir(tmp_path) == ["hub.json"]


def test_a_private_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "hub.json"
    path.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, b"new", durable=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["hub.json"]


def test_what_a_process_that_died_left_behind_is_no_obstacle(tmp_path: Path):
    left = tmp_path / f"hub.json.{os.getpid()}.new"
    left.symlink_to(tmp_path / "victim")
    write_private(tmp_path / "hub.json", b"new")
    assert os.listdir(tmp_path) == ["hub.json"]


# --- sockets --------------------------------------------------------------------------------------


def test_the_socket_is_in_the_data_directory_when_its_path_is_short_enough():
    home = Path("/h") / ("x" * 88)
    assert len(str(home / "hub.sock")) == 100
    assert choose_socket_path(Paths(home), {}) == home / "hub.sock"


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("s")
    if len(str(path)) > 60:
        pytest.skip("the temporary directory itself has too long a path")
    return path


LONG = Path("/home/alice") / ("x" * 100)


@pytest.mark.guarantee("secrets-and-modes-0600")
def test_a_long_path_gets_a_short_socket_in_a_directory_of_ours(short: Path):
    chosen = choose_socket_path(Paths(LONG), {"XDG_RUNTIME_DIR": str(short)})
    assert chosen.parent.parent == short
    assert chosen.name == "hub.sock"
    assert chosen.parent.name.startswith(f"ecorelay-{os.geteuid()}-")
    assert mode(chosen.parent) == 0o700
    assert choose_socket_path(Paths(LONG), {"XDG_RUNTIME_DIR": str(short)}) == chosen


def test_two_data_directories_have_two_short_sockets(short: Path):
    environ = {"XDG_RUNTIME_DIR": str(short)}
    one = choose_socket_path(Paths(LONG / "a"), environ)
    assert one != choose_socket_path(Paths(LONG / "b"), environ)


def test_the_limit_counts_bytes_not_characters(short: Path):
    home = Path("/h") / ("ä" * 60)
    assert choose_socket_path(Paths(home), {"XDG_RUNTIME_DIR": str(short)}).parent.parent == short


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/at/all", "/" + "y" * 90])
def test_a_runtime_directory_of_no_use_is_passed_over(short: Path, runtime: str):
    environ = {"XDG_RUNTIME_DIR": runtime, "TMPDIR": str(short)}
    assert choose_socket_path(Paths(LONG), environ).parent.parent == short


def test_a_short_directory_others_could_write_to_is_refused(short: Path):
    environ = {"XDG_RUNTIME_DIR": str(short)}
    taken = choose_socket_path(Paths(LONG), environ).parent
    taken.chmod(0o777)
    with pytest.raises(RelayError, match="can be written by others"):
        choose_socket_path(Paths(LONG), environ)


def test_a_link_in_the_place_of_the_short_directory_is_refused(short: Path, tmp_path: Path):
    environ = {"XDG_RUNTIME_DIR": str(short)}
    taken = choose_socket_path(Paths(LONG), environ).parent
    taken.rmdir()
    taken.symlink_to(tmp_path)
    with pytest.raises(RelayError, match="is no directory"):
        choose_socket_path(Paths(LONG), environ)


def test_without_any_place_for_a_short_socket_the_home_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    with pytest.raises(RelayError, match="name a shorter ECORELAY_HOME"):
        choose_socket_path(Paths(LONG), {})


def test_a_directory_that_cannot_be_synced_by_nature_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def unable(handle: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unable)
    make_private_dir(tmp_path / "a")

    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(RelayError, match="Input/output error"):
        make_private_dir(tmp_path / "b")
