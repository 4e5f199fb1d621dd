"""A program in the place of `claude`: what `ecorelay install` uses of it, with its state in a file.

The words and outcomes are those of Claude Code 2.1.329; tests/e2e/test_real_claude.py holds the real one
against the same expectations. `make` puts it somewhere; these variables change how it behaves:

* ``STANDIN_FAILS``: a command that begins with these words fails.
* ``STANDIN_SLEEPS``: a command that begins with these words takes a minute.
* ``STANDIN_VERSION``: the version it says it has.
* ``STANDIN_COPIES``: it copies plugins instead of reading them from their folder, as older ones did.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

PLUGIN = "ecorelay@ecorelay"


def make(folder: Path) -> Path:
    """Put the stand-in into `folder`, under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "claude"
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -S -E '{__file__}' \"$@\"\n")
    path.chmod(0o755)
    return path


def calls(home: Path) -> list[str]:
    """What changed something was called with; what only looks is left out."""
    found = state_of(home).get("calls", [])
    return [line for line in found if "list" not in line and line != "--version"]


def state_of(home: Path) -> dict[str, Any]:
    path = home / "standin-claude.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(home: Path, **state: Any) -> None:
    new = home / "standin-claude.json.new"
    new.write_text(json.dumps({**state_of(home), **state}))
    new.replace(home / "standin-claude.json")  # a test may be reading


def main(words: list[str]) -> int:
    home = Path(os.environ["HOME"])
    state = state_of(home)
    save(home, calls=[*state.get("calls", []), " ".join(words)])
    fails = os.environ.get("STANDIN_FAILS")
    if fails and " ".join(words).startswith(fails):
        print("Working…", end="")
        print("✘ Failed: the sky is falling", file=sys.stderr)
        return 1
    sleeps = os.environ.get("STANDIN_SLEEPS")
    if sleeps and " ".join(words).startswith(sleeps):
        time.sleep(60)
    markets, plugins = state.get("markets", {}), state.get("plugins", {})
    match words:
        case ["--version"]:
            print(os.environ.get("STANDIN_VERSION", "2.1.329") + " (Claude Code)")
        case ["plugin", "marketplace", "list", "--json"]:
            listed = [{"name": name, "source": "directory", "path": path} for name, path in markets.items()]
            print(json.dumps(listed))
        case ["plugin", "marketplace", "add", folder]:
            market = json.loads((Path(folder) / ".claude-plugin/marketplace.json").read_text())
            save(home, markets={**markets, market["name"]: folder})
        case ["plugin", "marketplace", "remove", name] if name in markets:
            save(home, markets={key: path for key, path in markets.items() if key != name})
        case ["plugin", "list", "--json"]:
            print(json.dumps([shown(entry, markets) for entry in plugins.values()]))
        case ["plugin", "install" | "update" as verb, plugin] if verb == "install" or plugin in plugins:
            if verb == "install" and plugin in plugins:
                print("already installed")
                return 0
            save(home, plugins={**plugins, plugin: installed(plugin, markets, home)})
        case ["plugin", "enable" | "disable" as verb, plugin] if plugin in plugins:
            save(home, plugins={**plugins, plugin: {**plugins[plugin], "enabled": verb == "enable"}})
        case ["plugin", "uninstall", plugin, *_] if plugin in plugins:
            save(home, plugins={key: entry for key, entry in plugins.items() if key != plugin})
        case _:
            print(f"✘ Failed: {' '.join(words)}", file=sys.stderr)
            return 1
    return 0


def folder_of(plugin: str, markets: dict[str, str]) -> Path:
    name, _, market = plugin.partition("@")
    return Path(markets[market]) / "plugins" / name


def installed(plugin: str, markets: dict[str, str], home: Path) -> dict[str, Any]:
    source = folder_of(plugin, markets)
    version = json.loads((source / ".claude-plugin/plugin.json").read_text())["version"]
    copy = home / ".claude/plugins/cache" / plugin / version
    if not copy.exists():
        shutil.copytree(source, copy)
    entry = {"id": plugin, "version": version, "scope": "user", "enabled": True, "installPath": str(copy)}
    return entry


def shown(entry: dict[str, Any], markets: dict[str, str]) -> dict[str, Any]:
    if os.environ.get("STANDIN_COPIES"):
        return entry
    market = entry["id"].partition("@")[2]
    if market not in markets or not Path(markets[market]).is_dir():
        return {**entry, "errors": [f"Marketplace {market} failed to load: cache-miss"]}
    return {**entry, "readFromFolder": str(folder_of(entry["id"], markets))}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
