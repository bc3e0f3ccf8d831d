# Sourced by the other scripts: `prepare_environment EXTRAS` makes .venv hold this package, editable, with
# these extras at the versions of constraints.txt. It does nothing where that is already so.
#
# PYTHON  the interpreter that makes the environment (python3)
# VENV    where the environment lies (.venv)
# shellcheck shell=bash

VENV=${VENV:-.venv}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

require_python() {
    command -v "$1" >/dev/null || fail "there is no '$1'; install Python 3.10 or newer, or name it: PYTHON=/path/to/python $0"
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "Python 3.10 or newer is needed, and '$1' is $("$1" -V 2>&1); name another: PYTHON=/path/to/python $0"
}

# One line that changes with anything the installation depends on.
fingerprint() {
    "$VENV/bin/python" - "$1" <<'PYTHON'
import hashlib
import sys
from pathlib import Path

parts = [sys.argv[1].encode(), sys.version.encode(), str(Path.cwd()).encode()]
parts += [Path(name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
print(hashlib.sha256(b"\0".join(parts)).hexdigest())
PYTHON
}

# Whether these extras are installed, and nothing they depend on has changed since.
is_installed() {
    local stamp="$VENV/.installed-${1//,/-}"
    [[ -f $stamp && $(<"$stamp") == "$(fingerprint "$1")" ]]
}

prepare_environment() {
    local extras=$1
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        require_python "${PYTHON:-python3}"
        [[ ! -e $VENV || -f $VENV/pyvenv.cfg ]] || fail "'$VENV' exists and is no virtual environment"
        printf 'Making a virtual environment in %s\n' "$VENV" >&2
        "${PYTHON:-python3}" -m venv --clear "$VENV" || fail "no virtual environment could be made (on Debian and Ubuntu: apt install python3-venv)"
    fi
    require_python "$VENV/bin/python"
    # `dev` includes all other extras.
    if ! is_installed "$extras" && ! is_installed dev; then
        printf 'Installing the package and its dependencies (the first time, torch alone can take minutes)\n' >&2
        "$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt -e ".[$extras]" >&2
        fingerprint "$extras" >"$VENV/.installed-${extras//,/-}"
    fi
}
