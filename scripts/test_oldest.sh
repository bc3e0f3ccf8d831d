#!/usr/bin/env bash
# Runs tests with the oldest releases that pyproject.toml allows, those of constraints-oldest.txt, in an
# environment of their own: the core, both wrappers, the adapters of other libraries, and the package as a whole.
# Arguments go to pytest. It takes Python 3.10 or 3.11: the oldest releases have no wheels for later ones.
#
# torch alone is that of constraints.txt, for its older builds bring several gigabytes of CUDA libraries;
# TORCH=2.10.0 takes another one.
#
# PYTHON  the interpreter that makes the environment (python3)
# VENV    where the environment lies (.venv-oldest)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv-oldest}
source scripts/environment.sh

torch=${TORCH:-$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' constraints.txt)}
bounds=$(mktemp)
trap 'rm -f "$bounds"' EXIT
sed "s/^torch==.*/torch==$torch/" constraints-oldest.txt >"$bounds"

require_python "${PYTHON:-python3}"
if ! [[ -x $VENV/bin/python && -f $VENV/.oldest && $(<"$VENV/.oldest") == "$(sha256sum "$bounds" pyproject.toml | cut -d' ' -f1)" ]]; then
    "${PYTHON:-python3}" -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet -c "$bounds" -e '.[oldest]'
    sha256sum "$bounds" pyproject.toml | cut -d' ' -f1 >"$VENV/.oldest"
fi
"$VENV/bin/python" -m pip check
exec "$VENV/bin/python" -m pytest "$@"
