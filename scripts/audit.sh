#!/usr/bin/env bash
# Asks for known vulnerabilities of the packages in a constraints file, with pip-audit, in an environment of its
# own. Nothing of what is audited is installed. Arguments go to pip-audit.
#
#     bash scripts/audit.sh                                       all that constraints.txt pins
#     REQUIREMENTS=constraints-oldest.txt bash scripts/audit.sh   the oldest releases allowed
#
# PYTHON        the interpreter that makes the environment (python3)
# VENV          where the environment lies (.venv-audit)
# REQUIREMENTS  what to audit (constraints.txt)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv-audit}
source scripts/environment.sh
tool=pip-audit==2.10.1

require_python "${PYTHON:-python3}"
if [[ ! -x $VENV/bin/pip-audit || ! -f $VENV/.tool || $(<"$VENV/.tool") != "$tool" ]]; then
    "${PYTHON:-python3}" -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet "$tool"
    printf '%s' "$tool" >"$VENV/.tool"
fi
# A file of exact pins needs no resolver: --no-deps and --disable-pip read it as it stands. --strict makes it an
# error that nothing could be learnt of a package, which would else look like a clean one.
exec "$VENV/bin/pip-audit" --requirement "${REQUIREMENTS:-constraints.txt}" --no-deps --disable-pip --strict \
    --progress-spinner off "$@"
