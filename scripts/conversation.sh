#!/usr/bin/env bash
# Let the real Claude Code, Codex CLI, OpenCode and GitHub Copilot CLI talk to each other on one hub, with a
# scripted model on loopback in the place of theirs. Needs tmux, and two of the four installed: by default below
# ~/.cache/assistant-clients (see tests/real/{claude,codex,opencode,copilot}.py), or named by CLAUDE_BIN, CODEX_BIN,
# OPENCODE_BIN, COPILOT_BIN. Nobody's own settings are touched, and nothing but loopback is talked to.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
./scripts/setup_env.sh --dev
exec .venv/bin/python -m pytest -q -rs -m real -p no:cacheprovider tests/real/test_conversation.py "$@"
