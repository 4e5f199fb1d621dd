"""The soak's look into logs."""

from __future__ import annotations

from pathlib import Path

from scripts.soak_lib.logs import Logs


def test_every_crash_is_told_once_also_from_a_log_that_was_rotated(tmp_path: Path) -> None:
    home = tmp_path / "ash" / "home"
    home.mkdir(parents=True)
    log = home / "hub.log"
    log.write_text('{"event":"started"}\n{"event":"crash","n":1}\n{"event":"cra')
    logs = Logs(tmp_path)
    assert list(logs.crashes()) == ['ash/home/hub.log: {"event":"crash","n":1}']
    with log.open("a") as file:
        file.write('sh","n":2}\n')
    log.rename(home / "hub.log.1")
    log.write_text('{"event":"crash","n":3}\n')
    (tmp_path / "ash" / "hub.out").write_text("Traceback (most recent call last):\n  x\n")
    assert list(logs.crashes()) == [
        'ash/home/hub.log: {"event":"crash","n":3}',
        'ash/home/hub.log.1: {"event":"crash","n":2}',
        "ash/hub.out: Traceback (most recent call last):",
    ]
    assert list(logs.crashes()) == []
