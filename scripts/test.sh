#!/usr/bin/env bash
# Sets up .venv where needed, then runs the tests, with any arguments passed on to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment dev
exec "$VENV/bin/python" -m pytest "$@"
