#!/usr/bin/env bash
# Set up what is needed, then show ecorelay at work: two peers talk, one goes offline and comes
# back to its mail. Arguments go to `ecorelay demo` (try --help).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/scripts/setup_env.sh"

python="$root/.venv/bin/python"
[ -x "$python" ] || python="$root/.venv/Scripts/python.exe"
exec "$python" -m ecorelay demo "$@"
