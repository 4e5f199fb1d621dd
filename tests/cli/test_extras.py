"""What is not installed is named with a command that gets it into this very Python, with or without pip."""

import shlex
import sys

import pytest

from ecorelay import extras
from ecorelay.cli.relay_start import demand_extra
from ecorelay.errors import RelayError


def test_only_what_is_not_there_is_missing():
    assert extras.missing(("sys", "no_package_is_called_so", "json")) == ("no_package_is_called_so",)


def test_where_this_python_has_pip_it_is_told_to_install_the_packages(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/home/a b/bin/python")
    monkeypatch.setitem(sys.modules, "pip", extras)  # any module that has a spec
    found = extras.how_to_get("bridge", extras.BRIDGE)
    assert shlex.split(found.strip("`")) == [sys.executable, "-m", "pip", "install", "cryptography", "spake2"]


def test_without_pip_the_checkout_is_installed_again(monkeypatch):
    monkeypatch.setitem(sys.modules, "pip", None)
    assert "`uv tool install '.[relay]'`" in extras.how_to_get("relay", extras.RELAY)


def test_the_relay_server_says_what_it_lacks(monkeypatch):
    demand_extra()
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(RelayError, match=r"needs cryptography: .*install"):
        demand_extra()
