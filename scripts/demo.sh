#!/usr/bin/env bash
# Sets up .venv where needed, then runs the main job: `flag-rerank demo`, with any arguments passed on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment all,demo
exec "$VENV/bin/flag-rerank" demo "$@"
