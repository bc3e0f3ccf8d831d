#!/usr/bin/env bash
# Runs tests with the oldest releases that pyproject.toml allows, those of constraints-oldest.txt, in an
# environment of their own: the core and both wrappers. Arguments go to pytest in place
# of these files. It takes Python 3.10 or 3.11: some of the oldest releases have no wheels for later ones.
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

extras=langchain,llama-index,sentence-transformers,onnx,peft,remote,quickstart,bench,eval,monitoring,testing
tools=("hypothesis>=6.130" "pytest-timeout>=2.3") # what the tests below use beside the extras
tests=(
    tests/test_config.py
    tests/test_devices.py
    tests/test_langchain_compressor.py
    tests/test_llama_index_ranking.py
    tests/test_loading.py
    tests/test_parity.py
    tests/test_quickstart.py
    tests/test_reranker.py
)
(($#)) || set -- "${tests[@]}"

torch=${TORCH:-$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' constraints.txt)}
bounds=$(mktemp)
trap 'rm -f "$bounds"' EXIT
sed "s/^torch==.*/torch==$torch/" constraints-oldest.txt >"$bounds"

require_python "${PYTHON:-python3}"
stamp=$(cat "$bounds" pyproject.toml "${BASH_SOURCE[0]}" | sha256sum)
if [[ ! -x $VENV/bin/python || ! -f $VENV/.oldest || $(<"$VENV/.oldest") != "$stamp" ]]; then
    "${PYTHON:-python3}" -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install --disable-pip-version-check --quiet -c "$bounds" -e ".[$extras]" "${tools[@]}"
    printf '%s\n' "$stamp" >"$VENV/.oldest"
fi
"$VENV/bin/python" -m pip check
"$VENV/bin/python" -m pytest "$@"
