#!/usr/bin/env bash
# Make this machine a controller: Debian packages and .venv. Does nothing (and takes no time) when all is in place.
# Usage: bootstrap.sh [--force]
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/lab/bootstrap
venv=$root/.venv
stamp=$venv/.bootstrap-stamp
python=/usr/bin/python3
log=${TMPDIR:-/tmp}/podwire-bootstrap-$$.log

say() { printf '%s\n' "$*" >&2; }
fail() { say "bootstrap: $*"; exit 1; }

# Run a step quietly; when it fails show the end of its output, so that the cause is on the screen.
step() {
    local what=$1 start=$SECONDS
    shift
    say "bootstrap: $what"
    if ! "$@" </dev/null >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        fail "$what failed (command: $*; whole output: $log). Fix the cause above and run it again."
    fi
    rm -f "$log"
    say "bootstrap: $what: done in $((SECONDS - start)) s"
}

wanted_packages() { sed 's/#.*//' "$here/apt-packages.txt" | tr -s ' \t\n' '\n' | grep .; }

missing_packages() {
    local installed
    # shellcheck disable=SC2016 # the format is dpkg's own
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' | awk '$2 == "installed" {print $1}' | sort -u)
    wanted_packages | sort -u | comm -23 - <(printf '%s\n' "$installed")
}

fingerprint() {
    { cat "$here/apt-packages.txt" "$0" "$root/requirements/controller.txt" "$root/pyproject.toml"
      echo "$root"; "$python" -c 'import sys; print(sys.version)'; } | sha256sum | cut -d ' ' -f 1
}

[[ -x $python ]] || [[ $(id -u) -eq 0 ]] || fail "$python is missing and only root can install it: run as root."
command -v dpkg-query >/dev/null || fail "this machine has no dpkg: podwire's controller and lab run on Debian 12 or newer."

# One bootstrap at a time per checkout; the lock is on the directory, so nothing stays behind.
exec 9<"$here"
flock -n 9 || { say "bootstrap: another bootstrap of this checkout is running, waiting for it"; flock 9; }

if [[ ${1:-} != --force && -x $python && -f $stamp && $(<"$stamp") == "$(fingerprint)" && -x $venv/bin/ansible-playbook ]]; then
    exit 0
fi

mapfile -t missing < <(missing_packages)
if ((${#missing[@]})); then
    [[ $(id -u) -eq 0 ]] || fail "packages are missing and only root can install them: run as root, or apt-get install ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt=(apt-get -y -q -o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false -o Acquire::Retries=3)
    # Lists of third-party sources may be unreachable; only a missing package below is a failure.
    say "bootstrap: refreshing package lists"
    "${apt[@]}" update </dev/null >"$log" 2>&1 || say "bootstrap: some package lists could not be refreshed: $(grep -E '^(E|Err):?' "$log" | head -n 1)"
    dpkg --configure -a </dev/null >>"$log" 2>&1 || true
    step "installing ${#missing[@]} Debian packages (${missing[*]})" "${apt[@]}" install "${missing[@]}"
fi

# A half-made or foreign .venv (another interpreter, a moved checkout) is rebuilt from nothing.
if [[ -d $venv ]] && ! "$venv/bin/python" -c "import sys; assert sys.prefix == '$venv'" 2>/dev/null; then
    rm -rf "$venv"
fi
rm -f "$stamp"
[[ -x $venv/bin/pip ]] || step "creating .venv" "$python" -m venv "$venv"
pip=("$venv/bin/pip" --disable-pip-version-check --no-input)
step "installing pinned Python packages" "${pip[@]}" install -r "$root/requirements/controller.txt"
step "installing podwire itself, editable" "${pip[@]}" install --no-build-isolation --no-deps -e "$root"
fingerprint >"$stamp.new" && mv "$stamp.new" "$stamp"
say "bootstrap: ready"
