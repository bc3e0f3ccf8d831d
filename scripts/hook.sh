#!/usr/bin/env bash
# Runs a tool of the development environment for a hook of .pre-commit-config.yaml, so that a commit is checked by
# the very versions that .ci/run uses. The environment is that of scripts/test.sh; it is not made here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
tool=$1
shift
[[ -x $VENV/bin/$tool ]] || fail "there is no $tool in $VENV: run scripts/test.sh once, which sets it up"
exec "$VENV/bin/$tool" "$@"
