#!/usr/bin/env bash
# Sets up .venv-peers where needed (this package, editable, and its peers), then runs a benchmark:
#
#     bash benchmarks/run.sh --quick            the comparison with the peers; arguments go to benchmarks/peers.py
#     bash benchmarks/run.sh latency            another one by name: latency, quantization, causal
#
# PYTHON chooses the interpreter that makes the environment, VENV another place for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv-peers}
source scripts/environment.sh

requirements=benchmarks/requirements-peers.txt
prepare_environment sentence-transformers,onnx,quickstart,eval
stamp="$VENV/.installed-peers"
if ! cmp -s "$requirements" "$stamp"; then
    # Peer by peer: one that cannot be installed here is reported by the benchmark and keeps no other out.
    while read -r requirement; do
        [[ -z $requirement || $requirement == \#* ]] && continue
        "$VENV/bin/python" -m pip install --disable-pip-version-check -c constraints.txt "$requirement" >&2 ||
            printf 'warning: %s could not be installed; the comparison goes on without it\n' "$requirement" >&2
    done <"$requirements"
    cp "$requirements" "$stamp"
fi

benchmark=peers
if [[ ${1:-} =~ ^[a-z]+$ ]]; then
    benchmark=$1
    shift
    [[ -f benchmarks/$benchmark.py ]] || fail "there is no benchmarks/$benchmark.py"
fi
exec "$VENV/bin/python" -m "benchmarks.$benchmark" "$@"
