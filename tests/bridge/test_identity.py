"""The identity file: made once and for good, private, and noticed when copied."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from ecorelay.errors import RelayError
from ecorelay_bridge import identity as module, machine
from ecorelay_bridge.identity import (
    fingerprint,
    import_identity,
    is_fingerprint,
    open_identity,
    public_of_certificate,
    read_identity,
)
from ecorelay_bridge.machine import machine_mark

HERE, THERE = "a" * 32, "b" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "identity.pem"


def test_it_is_made_once_and_then_stays(path) -> None:
    made = open_identity(path, HERE)
    again = open_identity(path, HERE)
    assert made.fingerprint == again.fingerprint
    assert made.certificate == again.certificate
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["identity.pem"]


def test_two_are_never_the_same_and_look_alike_but_for_the_key(path, tmp_path) -> None:
    one, other = open_identity(path, HERE), open_identity(tmp_path / "other.pem", HERE)
    assert one.fingerprint != other.fingerprint
    # Nothing else in a certificate tells one hub from another: name, number, dates.
    from cryptography import x509

    first, second = (x509.load_der_x509_certificate(each.certificate) for each in (one, other))
    for what in ("subject", "issuer", "serial_number", "not_valid_before_utc", "not_valid_after_utc"):
        assert getattr(first, what) == getattr(second, what)


def test_the_fingerprint_is_over_the_key_in_the_certificate(path) -> None:
    made = open_identity(path, "")
    public = public_of_certificate(made.certificate)
    assert public == made.public
    assert fingerprint(public) == made.fingerprint
    assert is_fingerprint(made.fingerprint)
    assert not is_fingerprint(made.fingerprint + "=")
    assert not is_fingerprint(made.fingerprint.lower())


def test_it_is_on_the_disk_before_anybody_gets_it(path, monkeypatch) -> None:
    """The order: content synced, then given its name, then the directory synced."""
    done = []
    for name in ("fsync", "link", "open"):
        real = getattr(os, name)

        def spy(*args, name=name, real=real, **more):
            done.append((name, str(args[0]) if name == "open" else ""))
            return real(*args, **more)

        monkeypatch.setattr(os, name, spy)
    open_identity(path, HERE)
    names = [name for name, _ in done]
    assert names.index("fsync") < names.index("link")
    assert "fsync" in names[names.index("link") :]


def test_where_there_are_no_links_it_is_renamed_into_place(path, monkeypatch) -> None:
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    made = open_identity(path, HERE)
    assert read_identity(path).fingerprint == made.fingerprint
    assert [each.name for each in path.parent.iterdir()] == ["identity.pem"]


def test_of_two_processes_that_make_one_the_first_wins(path, monkeypatch, tmp_path) -> None:
    winner = open_identity(tmp_path / "winner.pem", HERE)
    real = os.link

    def late(source, target):
        Path(target).write_bytes(winner.path.read_bytes())
        real(source, target)

    monkeypatch.setattr(os, "link", late)
    assert open_identity(path, HERE).fingerprint == winner.fingerprint


def test_many_processes_at_once_agree(path) -> None:
    code = (
        "import sys; from pathlib import Path; from ecorelay_bridge.identity import open_identity; "
        "print(open_identity(Path(sys.argv[1]), '').fingerprint)"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = {each.communicate(timeout=60)[0] for each in started}
    assert len(said) == 1
    assert said.pop().strip() == read_identity(path).fingerprint


def test_a_copy_on_another_machine_is_refused_and_told_how_to_make_its_own(path) -> None:
    made = open_identity(path, THERE)
    with pytest.raises(RelayError) as refused:
        open_identity(path, HERE)
    assert refused.value.code == "bad_args"
    assert "another machine" in refused.value.message
    assert "move that file away" in refused.value.message
    assert "ecorelay identity import" in refused.value.message
    path.unlink()
    assert open_identity(path, HERE).fingerprint != made.fingerprint


@pytest.mark.parametrize(("then", "now"), [("", HERE), (THERE, ""), ("", "")])
def test_where_a_machine_cannot_be_told_nothing_is_refused(path, then, now) -> None:
    assert open_identity(path, then).fingerprint == open_identity(path, now).fingerprint


def test_import_makes_a_copy_this_machines_and_keeps_what_was_there(path, tmp_path) -> None:
    old = open_identity(path, HERE)
    moved = open_identity(tmp_path / "export.pem", THERE)
    imported = import_identity(moved.path, path, HERE)
    assert imported.fingerprint == moved.fingerprint
    assert open_identity(path, HERE).fingerprint == moved.fingerprint
    kept = path.with_name("identity.pem.old")
    assert read_identity(kept).fingerprint == old.fingerprint
    assert kept.stat().st_mode & 0o777 == 0o600


def test_import_of_the_file_itself_makes_it_this_machines(path) -> None:
    made = open_identity(path, THERE)
    import_identity(path, path, HERE)
    assert open_identity(path, HERE).fingerprint == made.fingerprint


def test_a_failed_import_changes_nothing(path, tmp_path) -> None:
    old = open_identity(path, HERE)
    (tmp_path / "broken.pem").write_text("nothing")
    with pytest.raises(RelayError, match="damaged"):
        import_identity(tmp_path / "broken.pem", path, HERE)
    with pytest.raises(RelayError, match="no file"):
        import_identity(tmp_path / "missing.pem", path, HERE)
    assert open_identity(path, HERE).fingerprint == old.fingerprint


def other_key(text: str, tmp_path: Path) -> str:
    other = open_identity(tmp_path / "other.pem", "").path.read_text()
    return text[: text.index("-----BEGIN C")] + other[other.index("-----BEGIN C") :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text, _: "",
        lambda text, _: text[: len(text) // 2],
        lambda text, _: text.replace("PRIVATE KEY", "SOMETHING"),
        lambda text, _: text.replace("-----END CERTIFICATE-----", ""),
        lambda text, _: text.replace("MC4CAQAw", "AAAAAAAA"),
        lambda text, _: "\0" * len(text),
        other_key,
    ],
)
def test_a_damaged_file_is_said_to_be_one_never_quoted_and_never_replaced(path, tmp_path, damage) -> None:
    open_identity(path, HERE)
    whole = path.read_text()
    broken = damage(whole, tmp_path)
    path.write_text(broken)
    with pytest.raises(RelayError) as refused:
        open_identity(path, HERE)
    assert refused.value.code == "bad_args"
    assert "damaged" in refused.value.message
    assert refused.value.__cause__ is None
    private = whole.split("\n")[4]
    assert len(private) > 60
    assert private not in str(refused.value)
    assert path.read_text() == broken


def test_a_key_of_another_kind_is_damage(path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    made = open_identity(path, HERE).path.read_bytes()
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(other + made[made.index(b"-----BEGIN C") :])
    with pytest.raises(RelayError, match="damaged"):
        open_identity(path, HERE)


def test_a_file_others_could_read_is_made_private(path) -> None:
    open_identity(path, HERE)
    path.chmod(0o644)
    open_identity(path, HERE)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_of_somebody_else_is_refused(path, monkeypatch) -> None:
    open_identity(path, HERE)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RelayError, match="belongs to user id"):
        open_identity(path, HERE)


def test_something_else_in_its_place_is_refused_without_waiting(path) -> None:
    path.mkdir()
    with pytest.raises(RelayError):
        open_identity(path, HERE)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(RelayError, match="no file"):
        open_identity(path, HERE)


def test_a_directory_that_is_missing_is_an_error_of_ours(tmp_path) -> None:
    with pytest.raises(RelayError) as refused:
        open_identity(tmp_path / "nowhere" / "identity.pem", HERE)
    assert refused.value.code == "mailbox_error"


def test_a_disk_that_takes_nothing_leaves_nothing_behind(path, monkeypatch) -> None:
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RelayError, match="No space left"):
        open_identity(path, HERE)
    assert list(path.parent.iterdir()) == []


def test_line_ends_of_windows_do_no_harm(path) -> None:
    made = open_identity(path, HERE)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    again = open_identity(path, HERE)
    assert (again.fingerprint, again.machine) == (made.fingerprint, HERE)


def test_tls_is_1_3_only_and_gives_no_tickets(path) -> None:
    accepting, dialing = open_identity(path, HERE).accepting_context(), module.dialing_context()
    assert accepting.minimum_version == dialing.minimum_version == ssl.TLSVersion.TLSv1_3
    assert accepting.num_tickets == 0


def test_neither_repr_nor_fingerprint_shows_the_key(path) -> None:
    made = open_identity(path, HERE)
    private = path.read_text().split("\n")[4]
    assert private not in f"{made!r} {made} {vars(made)}"


def test_without_the_extra_packages_it_says_what_to_install(path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "spake2", None)
    with pytest.raises(RelayError, match=r"links to other hubs need spake2: .*install"):
        open_identity(path, HERE)
    assert not path.exists()


# --- which machine this is -----------------------------------------------------------------------


def test_the_mark_is_a_hash_that_stays(monkeypatch) -> None:
    monkeypatch.setattr(machine, "_system_id", lambda: "0123456789abcdef0123456789abcdef\n")
    mark = machine_mark()
    assert mark == machine_mark()
    assert len(mark) == 32
    assert mark != "0123456789abcdef0123456789abcdef"
    monkeypatch.setattr(machine, "_system_id", lambda: "another")
    assert machine_mark() != mark


def test_a_machine_without_an_id_has_no_mark(monkeypatch) -> None:
    monkeypatch.setattr(machine, "_system_id", lambda: " \n")
    assert machine_mark() == ""


def test_the_first_file_with_an_id_counts(tmp_path) -> None:
    empty, unset, good = tmp_path / "empty", tmp_path / "unset", tmp_path / "good"
    empty.write_text("")
    unset.write_text("uninitialized\n")
    good.write_text("abc\n")
    files = (str(tmp_path / "missing"), str(empty), str(unset), str(good))
    assert machine._first_text(files) == "abc"
    assert machine._first_text(files[:3]) == ""
