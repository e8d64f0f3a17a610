#!/usr/bin/env bash
# Train a model like the built-in one on a GPU, with larger batches and more steps.
#
# usage: train_on_gpu.sh PICTURES VGG16 FONTS OUTPUT [options of both runs]
#
# Meant for ten minutes of a data-center GPU; not measured on one. Interrupt it at any time and
# give the same command again to go on.
set -euo pipefail
export FLOW_STEPS=${FLOW_STEPS:-20000} PRIOR_STEPS=${PRIOR_STEPS:-10000}
export FLOW_BATCH=${FLOW_BATCH:-16} PRIOR_BATCH=${PRIOR_BATCH:-16}
exec "$(dirname "$0")/train_built_in.sh" "$@" --device cuda
