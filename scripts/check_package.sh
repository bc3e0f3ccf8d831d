#!/usr/bin/env bash
# Builds the sdist, and the wheel from it; installs the wheel where neither the source tree nor the editable
# install can be seen; and runs scripts/check_installed.py there. Needs the environment of scripts/test.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment dev
python=$(cd "$VENV" && pwd)/bin/python
checks=$PWD/scripts/check_installed.py
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --no-isolation --outdir "$work/dist" .
"$python" -m twine check --strict "$work"/dist/*

# The dependencies come from the development environment's folder, named in a .pth file: Python reads no
# .pth file inside a folder added that way, so the editable install's own one stays without effect.
"$python" -m venv "$work/clean"
"$work/clean/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "$work"/dist/*.whl
clean=$("$work/clean/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$clean/dependencies.pth"
cd "$work"
"$work/clean/bin/python" -I "$checks"
