#!/usr/bin/env bash
# Builds the documentation into docs/_build/html; any warning, a broken link or name included, is an error.
# Arguments are passed on to Sphinx. Uses no network once the environment is there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment dev
exec "$VENV/bin/python" -m sphinx --builder html --fail-on-warning --keep-going --nitpicky --quiet \
    "$@" docs docs/_build/html
