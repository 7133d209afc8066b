#!/bin/sh
# Records every surface of this folder, with FIXNORM_DATA_ROOT/cifar10 for the images: about an hour and a half on two cores.
# Stopped, it goes on where it was. One job file as an argument records that one alone.
set -eu
cd "$(dirname "$0")/../.."
for job in ${1:-$(ls benchmarks/surfaces/*.yaml)}; do
    out="${job%.yaml}.json"
    [ -e "$out" ] || ${PYTHON:-.venv/bin/python} benchmarks/record_surface.py "$job" --data-root "$FIXNORM_DATA_ROOT" --seeds 2 \
        --grid lr=1e-4,5e-4,2e-3,4e-3,8e-3,0.016,0.032,0.064,0.16,1 --grid fc_norm=0.25,0.5,1,2,5,32 --out "$out"
done
