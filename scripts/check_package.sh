#!/usr/bin/env bash
# Builds the sdist, and the wheel from it; installs the wheel where neither the source tree nor the editable
# install can be seen; and runs scripts/check_installed.py there with all extras, and scripts/check_bare.py
# with none. Needs the environment of scripts/test.sh.
#
# DIST  where to leave sdist and wheel (nowhere)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment dev
python=$(cd "$VENV" && pwd)/bin/python
scripts=$PWD/scripts
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m build --no-isolation --outdir "$work/dist" .
"$python" -m twine check --strict "$work"/dist/*
if [[ -n ${DIST:-} ]]; then
    mkdir -p "$DIST"
    cp "$work"/dist/* "$DIST"
fi

site_packages() {
    "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}

# All extras: the dependencies come from the development environment's folder, named in a .pth file: Python reads
# no .pth file inside a folder added that way, so the editable install's own one stays without effect.
"$python" -m venv "$work/full"
"$work/full/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps "$work"/dist/*.whl
site_packages "$python" >"$(site_packages "$work/full/bin/python")/dependencies.pth"

# No extras: links to the dependencies alone. pip refuses where one of them is missing or of a wrong version.
"$python" -m venv --without-pip "$work/bare"
"$python" scripts/link_base.py "$work"/dist/*.whl "$(site_packages "$work/bare/bin/python")"
PIP_FIND_LINKS='' "$python" -m pip --python "$work/bare/bin/python" install --disable-pip-version-check --quiet --no-index \
    "$work"/dist/*.whl
"$python" -m pip --python "$work/bare/bin/python" check

cd "$work"
full/bin/python -I "$scripts/check_installed.py"
bare/bin/python -I "$scripts/check_bare.py"
