#!/usr/bin/env bash
# Pin the newest versions that requirements/controller.in allows, resolved in a throw-away environment.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
/usr/bin/python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install -q --disable-pip-version-check -r "$root/requirements/controller.in"
{
    echo "# Pinned versions of requirements/controller.in. Refresh with \`make pins\`."
    "$scratch/venv/bin/pip" freeze --all | grep -v -iE '^pip=='
} >"$scratch/controller.txt"
install -m 0644 "$scratch/controller.txt" "$root/requirements/controller.txt"
