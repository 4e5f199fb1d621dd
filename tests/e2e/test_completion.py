"""The Tab key: scripts for the shells, and what they are offered."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.helpers.command_line import CommandLine

SCRIPTS = Path(sysconfig.get_path("scripts"))

pytestmark = pytest.mark.skipif(not (SCRIPTS / "ecorelay").exists(), reason="ecorelay is not installed here")

TYPED = """
source <(_ECORELAY_COMPLETE=source_bash ecorelay)
typed() {
    COMP_WORDS=("$@") COMP_CWORD=$(( $# - 1 )) COMPREPLY=()
    _ecorelay_completion ecorelay
    echo "$*: ${COMPREPLY[*]}"
}
"""


@pytest.fixture
def ecorelay(tmp_path):
    command_line = CommandLine(tmp_path / "home", ECORELAY_KEEP_ALIVE="yes", HOME=str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    command_line.environ["PATH"] = f"{SCRIPTS}{os.pathsep}{command_line.environ['PATH']}"
    yield command_line
    command_line.end_hub()


def in_shell(ecorelay, shell, script):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run(
        [program, "-c", script], env=ecorelay.environ, capture_output=True, timeout=60, check=False, text=True
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.system
def test_bash_completes_commands_and_the_names_the_hub_knows(ecorelay):
    for name in ("alpha", "albert", "bob"):
        ecorelay("peers", "add", name)
    ecorelay("groups", "create", "alumni", "bob")
    script = TYPED + "\n".join(
        [
            "typed ecorelay gr",
            "typed ecorelay groups h",
            "typed ecorelay send al",
            "typed ecorelay inbox --as b",
            "typed ecorelay peers forget bo",
            "typed ecorelay groups invite al",
            "typed ecorelay groups invite alumni bo",
        ]
    )
    assert [line.split(": ") for line in in_shell(ecorelay, "bash", script).splitlines()] == [
        ["ecorelay gr", "groups"],
        ["ecorelay groups h", "history"],
        ["ecorelay send al", "albert alpha"],
        ["ecorelay inbox --as b", "bob"],
        ["ecorelay peers forget bo", "bob"],
        ["ecorelay groups invite al", "alumni"],
        ["ecorelay groups invite alumni bo", "bob"],
    ]


@pytest.mark.system
def test_without_a_hub_there_are_no_names_no_complaints_and_no_hub_is_started(ecorelay):
    script = TYPED + "typed ecorelay send al\ntyped ecorelay groups info al\ntyped ecorelay wat"
    out = in_shell(ecorelay, "bash", script)
    assert out.splitlines() == ["ecorelay send al: ", "ecorelay groups info al: ", "ecorelay wat: watch"]
    assert not ecorelay.paths.home.exists()


@pytest.mark.system
def test_settings_that_make_no_sense_do_not_disturb_who_types(ecorelay):
    ecorelay.environ["ECORELAY_ME"] = "no name"
    out = in_shell(ecorelay, "bash", TYPED + "typed ecorelay send al\ntyped ecorelay groups info al")
    assert out.splitlines() == ["ecorelay send al: ", "ecorelay groups info al: "]


@pytest.mark.system
def test_bash_has_it_after_it_was_installed(ecorelay):
    in_shell(ecorelay, "bash", "ecorelay --install-completion; true")
    assert "complete -o default -F _ecorelay_completion ecorelay" in in_shell(
        ecorelay, "bash", "source ~/.bashrc; complete -p ecorelay"
    )


@pytest.mark.system
def test_fish_completes_too(ecorelay):
    ecorelay("peers", "add", "alpha")
    script = "_ECORELAY_COMPLETE=source_fish ecorelay | source; complete -C 'ecorelay send al'"
    assert in_shell(ecorelay, "fish", script) == "alpha\n"


@pytest.mark.system
def test_zsh_takes_the_script(ecorelay):
    script = (
        "autoload -Uz compinit; compinit -D -u; source <(_ECORELAY_COMPLETE=source_zsh ecorelay);"
        "print $_comps[ecorelay]"
    )
    assert in_shell(ecorelay, "zsh", script) == "_ecorelay_completion\n"
