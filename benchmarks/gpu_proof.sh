#!/bin/bash
# What the first GPU at hand should answer, in at most nine minutes and without a network; see benchmarks/gpu_proof.py.
#
#   bash benchmarks/gpu_proof.sh OUT [WHEELS] [--panoramas FOLDER] [--seconds 520] [--parts driver,…] [--dry-run]
#
# OUT gets results.json, table.md, log.txt and, with panoramas, the page of training.reproduce and encoders. A second call with the same OUT measures only what is missing.
# WHEELS is a folder of wheels for what this machine's Python lacks, searched with its subfolders; a wheel that is too
# large to carry may be in parts, made with: split --bytes 55M --numeric-suffixes NAME.whl NAME.whl.part
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${1:?usage: bash benchmarks/gpu_proof.sh OUT [WHEELS] [options]}
shift
START=$SECONDS
SITE=$(mktemp -d)
trap 'rm -rf "$SITE"' EXIT

if [ -n "${1:-}" ] && [ "${1#--}" = "$1" ]; then
    WHEELS=$1
    shift
    JOINED=$(mktemp -d)
    for first in $(find "$WHEELS" -name '*.whl.part00' | sort); do
        name=$(basename "${first%.part00}")
        find "$WHEELS" -name "$name.part*" -printf '%f %p\n' | sort | cut -d' ' -f2- | xargs -d'\n' cat >"$JOINED/$name"
    done
    find "$WHEELS" -name '*.whl' -exec cp {} "$JOINED" \;
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$SITE" "$JOINED"/*.whl \
        || echo "a wheel in $WHEELS cannot be installed here; the rows that need it are listed as not measured"
    rm -rf "$JOINED"
fi

export PYTHONPATH="$SITE:$PWD:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"
set -o pipefail
python3 benchmarks/gpu_proof.py "$OUT" --seconds $((525 - SECONDS + START)) "$@" 2>"$OUT/log.txt"
STATUS=$?
tail -n 3 "$OUT/log.txt" >&2
exit $STATUS
