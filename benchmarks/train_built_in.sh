#!/usr/bin/env bash
# Train a model like the built-in one: the flow, then its learned prior together with the flow.
# The model is OUTPUT/prior/model.safetensors and OUTPUT/prior/prior.safetensors.
#
# usage: train_built_in.sh PICTURES VGG16 FONTS OUTPUT [options of both runs]
#
# An interrupted run resumes. Hours on two CPU cores; `--validation DIR` logs held-out losses.
set -euo pipefail
pictures=$1 vgg=$2 fonts=$3 output=$4
shift 4
flow_steps=${FLOW_STEPS:-9000} prior_steps=${PRIOR_STEPS:-5500}
flow_batch=${FLOW_BATCH:-8} prior_batch=${PRIOR_BATCH:-4}

data=(--images "$pictures" --crop 32 --scale-range 1,4 --synthetic 0.18 --fonts "$fonts"
      --gray 0.1 --color 0.2 --save-every 50)

flowsr-export train flow "${data[@]}" -o "$output/flow" --n-resblocks 8 --n-feats 48 \
    --hidden-dim 96 --flow-layers 6 --num-layer 3 --patch-size 3 --pixel-weight 20 \
    --phase-weight 100 --mesh-weight 0.3 --range-weight 20 --rescaled-weight 1 \
    --gain-weight 0.05 --steps "$flow_steps" --batch "$flow_batch" --learning-rate 4e-4 \
    --ema-decay 0.999 --seed 6 "$@"

flowsr-export train prior "${data[@]}" --model "$output/flow/model.safetensors" --vgg "$vgg" \
    -o "$output/prior" --prior unet --depth 2 --dim 32 --vgg-layer conv1_2 \
    --vgg-layer conv2_2 --vgg-layer conv3_3 --vgg-layer conv4_3 --perceptual-weight 1 \
    --pixel-weight 3 --phase-weight 50 --mesh-weight 0.3 --range-weight 10 \
    --likelihood-weight 0.01 --steps "$prior_steps" --batch "$prior_batch" \
    --learning-rate 3e-4 --ema-decay 0.998 --seed 8 "$@"

for part in flow prior; do
    flowsr-export train curves "$output/$part" --force
done
