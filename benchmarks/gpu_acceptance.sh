#!/usr/bin/env bash
# What a machine with a GPU has to show, in twenty minutes and without a package index.
#
# usage: gpu_acceptance.sh [--prepare | --dry-run] [--wheels DIR] [--bundles DIR] [-o DIR]
#
#   benchmarks/gpu_acceptance.sh --prepare --bundles build/bundles    (any machine, minutes)
#   benchmarks/gpu_acceptance.sh --wheels wheels --bundles build/bundles    (the GPU's)
#
# --prepare exports and calibrates the bundles into a folder (build/gpu-bundles), which needs no
# GPU; what the folder lacks later is made then, which takes longer.
# --wheels unpacks the wheels of a folder, such as onnxruntime-gpu's, beside what the machine
# has: PyTorch, onnx, psutil, matplotlib, jinja2, pytest, hypothesis. The project is here.
#
# The folder after -o (build/gpu-acceptance) must not exist. It gets the log of each step, the
# reports of the benchmarks, and table.md, which is printed at the end. Every step has a limit
# of time, and all of them have BUDGET seconds (1200). A step that fails, or for which no time is
# left, does not stop the others; the exit code is 1 then. DEVICE=cpu runs the steps on a CPU
# with small images, to test this script. --dry-run prints every command and runs none. The peak
# of GPU memory is that of all processes on the first GPU: run nothing else there.

set -euo pipefail
cd "$(dirname "$0")/.."

USAGE="$(sed -n 's/^# usage: //p' benchmarks/gpu_acceptance.sh)"
DEVICE="${DEVICE:-cuda}"
MODE="run"
WHEELS=""
BUNDLES="build/gpu-bundles"
OUT="build/gpu-acceptance"

usage() { echo "usage: $USAGE" >&2; exit 2; }

while [ $# -gt 0 ]; do
    case "$1" in
        --dry-run) MODE="dry" ;;
        --prepare) MODE="prepare" ;;
        --wheels) shift; WHEELS="${1:-}"; [ -d "$WHEELS" ] || usage ;;
        --bundles) shift; BUNDLES="${1:-}" ;;
        -o) shift; OUT="${1:-}" ;;
        *) usage ;;
    esac
    shift || usage
done
[ -n "$OUT" ] && [ -n "$BUNDLES" ] || usage

case "$DEVICE" in
    cuda)
        SMALL="128x128" LARGE="480x270" SIDE="1024x1024" PHOTOS=48 RATES="10,20,40"
        PACE=(--duration 1s --warm-up 200ms --blocks 5)
        COMPILED=(--backend torch-compiled --backend published-compiled)
        GRAPHS=(--cuda-graphs 2 --streams 1,2,4)
        ENGINES=(fixed range plain) HALF=fp16
        SLOWER=1 BUDGET="${BUDGET:-1200}" ;;
    cpu) # compiling takes minutes there, and there are no CUDA graphs
        SMALL="24x24" LARGE="32x18" SIDE="64x64" PHOTOS=3 RATES="1,2"
        PACE=(--duration 50ms --warm-up 10ms --blocks 2)
        COMPILED=()
        GRAPHS=(--streams 1,2)
        ENGINES=(fixed range) HALF=fp32
        SLOWER=10 BUDGET="${BUDGET:-7200}" ;;
    *) usage ;;
esac
[ "$MODE" != prepare ] || BUDGET=3600
FLOWSR=(python -m flowsr_export)
ON=(--provider "$DEVICE")
QUICK=("${PACE[@]}" --no-memory --no-stages --scale 4)
PEERS=(--backend onnxruntime --backend torch --backend published "${COMPILED[@]}")
PICTURES="export/flowsr_export/inputs/pictures"
PHOTO="$PICTURES/chelsea_256.png"
LINF=(--model "$BUNDLES/linf/model.safetensors" --prior "$BUNDLES/linf/prior.safetensors")
BEGAN=$SECONDS
FAILED=0

printed() { printf '%q ' "$@"; printf '\n'; }

# Add a row to the table: name, result, seconds, peak memory.
row() { printf '%s\t%s\t%s\t%s\n' "$@" >> "$OUT/steps.tsv"; }

skip() { [ "$MODE" = dry ] || row "$1" "skipped: $2" "" ""; }

# Run one step: its name, its limit in seconds, then the command.
step() {
    local name="$1" limit=$(($2 * SLOWER))
    shift 2
    if [ "$MODE" = dry ]; then printed "$@"; return; fi
    local left=$((BUDGET - SECONDS + BEGAN)) code=0 began=$SECONDS watcher="" peak=""
    local log="$OUT/logs/$name.log" memory="$OUT/logs/$name.memory"
    if [ "$left" -lt 2 ]; then
        row "$name" "NOT RUN: no time is left" "" ""
        FAILED=1
        return
    fi
    [ "$limit" -lt "$left" ] || limit=$left
    echo "$name" >&2
    printed "$@" > "$log"
    if command -v nvidia-smi > /dev/null; then
        nvidia-smi --id=0 --query-gpu=memory.used --format=csv,noheader,nounits --loop-ms=200 \
            > "$memory" 2> /dev/null &
        watcher=$!
    fi
    timeout -k 5 "$limit" "$@" >> "$log" 2>&1 < /dev/null || code=$?
    if [ -n "$watcher" ]; then
        kill "$watcher" 2> /dev/null || true
        wait "$watcher" 2> /dev/null || true
        peak=$(grep -E '^[0-9]+$' "$memory" | sort -n | tail -n 1 || true)
    fi
    local result="ok"
    case "$code" in
        0) ;;
        124 | 137) result="FAILED: longer than $limit s" ;;
        *) result="FAILED: exit code $code" ;;
    esac
    [ "$code" -eq 0 ] || FAILED=1
    row "$name" "$result" $((SECONDS - began)) "$peak"
}

# Make one thing in BUNDLES unless it is there: its name, then the command.
make() {
    [ "$MODE" != dry ] && [ -e "$BUNDLES/$1" ] || step "make-$1" 600 "${@:2}"
}

prepare() {
    local model files sizes=(--scale 4 --lr-size "$SMALL,$LARGE")
    make linf python -m benchmarks.stand_in_checkpoint linf --half -o "$BUNDLES/linf"
    for model in small edsr; do
        files=()
        [ "$model" = small ] || files=("${LINF[@]}")
        make "$model.bundle" "${FLOWSR[@]}" export-onnx "${files[@]}" --precision fp16 \
            -o "$BUNDLES/$model.bundle"
        make "$model-fixed.bundle" "${FLOWSR[@]}" export-onnx "${files[@]}" --precision fp16 \
            "${sizes[@]}" -o "$BUNDLES/$model-fixed.bundle"
    done
    make int8.bundle "${FLOWSR[@]}" calibrate --images "$PICTURES" --samples 16 --crop 24 \
        -o "$BUNDLES/int8.bundle"
}

# Fill the cache of PyTorch's compiler on the disk while nothing is timed.
compile_peers() {
    local model files
    for model in small edsr; do
        files=()
        [ "$model" = small ] || files=("${LINF[@]}")
        timeout -k 5 240 "${FLOWSR[@]}" bench "$BUNDLES/$model.bundle" "${files[@]}" \
            "${ON[@]}" "${COMPILED[@]}" --precision fp16 "${QUICK[@]}" --duration 10ms \
            --blocks 1 --lr-size "$SMALL" --lr-size "$LARGE" -o "$OUT/logs/compile-$model" \
            > "$OUT/logs/compile-$model.log" 2>&1 < /dev/null &
    done
}

# Build engines of Inductor: of one size, of a range, and of one size without our kernels.
build_engines() {
    local name
    for name in "${ENGINES[@]}"; do build_engine edsr "$name" "${LINF[@]}"; done
    build_engine small fixed
}

# Build an engine of Inductor: bundle, sort of engine, checkpoints. On a GPU's machine many
# cores build them side by side, beside the compilation of the peers.
build_engine() {
    local name="inductor-$1-$2" options=()
    [ "$2" = range ] || options+=(--exact)
    [ "$2" != plain ] || options+=(--no-kernels)
    step "$name" 240 "${FLOWSR[@]}" build-engine "$BUNDLES/$1.bundle" "${@:3}" \
        -o "$OUT/$name.bundle" --flavor inductor --device "$DEVICE" --precision "$HALF" \
        --lr-size "$LARGE" --scale 4 "${options[@]}" &
    [ "$DEVICE" = cuda ] && [ "$MODE" = run ] || wait $!
}

# Steps whose times do not count: they run while the peers are compiled.
checks() {
    step doctor 60 "${FLOWSR[@]}" doctor
    step tests 120 python -m pytest -q -m gpu -rs -p no:cacheprovider \
        --continue-on-collection-errors tests
    step pictures 30 python -m benchmarks.acceptance pictures "$PHOTO" "$OUT/many" \
        --count "$PHOTOS" --size "$LARGE"
    step picture 30 python -m benchmarks.acceptance pictures "$PHOTO" "$OUT/one" --size "$SIDE"
    step self-test 60 "${FLOWSR[@]}" upscale "$BUNDLES/small.bundle" "$PHOTO" "${ON[@]}" \
        -o "$OUT/self-test.png" --scale 4
    step verdicts 30 "${FLOWSR[@]}" inspect "$BUNDLES/small.bundle"
    step no-self-test 60 "${FLOWSR[@]}" upscale "$BUNDLES/small.bundle" "$PHOTO" "${ON[@]}" \
        -o "$OUT/no-self-test.png" --scale 4 --no-self-test
    [ "$DEVICE" = cpu ] || step tf32 60 "${FLOWSR[@]}" upscale "$PHOTO" "${ON[@]}" --tf32 \
        -o "$OUT/tf32.png" --scale 4
    step placement 60 "${FLOWSR[@]}" inspect "$BUNDLES/edsr.bundle" "${ON[@]}"
    if [ "$MODE" = dry ] || [ "$(nvidia-smi --list-gpus 2> /dev/null | wc -l)" -ge 2 ]; then
        step two-devices 60 "${FLOWSR[@]}" upscale "$OUT/many" "${ON[@]}" --devices 0,1 \
            -o "$OUT/two-devices" --scale 4
    else
        skip two-devices "there are no two GPUs"
    fi
}

# Steps that are timed, then agreement, so that a short time gives the figures first.
measurements() {
    step bench-edsr-fixed 90 "${FLOWSR[@]}" bench "$BUNDLES/edsr-fixed.bundle" "${ON[@]}" \
        "${QUICK[@]}" --lr-size "$LARGE" "${GRAPHS[@]}" -o "$OUT/bench-edsr-fixed"
    step bench-small-fixed 90 "${FLOWSR[@]}" bench "$BUNDLES/small-fixed.bundle" "${ON[@]}" \
        "${QUICK[@]}" --lr-size "$SMALL" "${GRAPHS[@]}" -o "$OUT/bench-small-fixed"
    step bench-edsr 150 "${FLOWSR[@]}" bench "$BUNDLES/edsr.bundle" "${LINF[@]}" "${ON[@]}" \
        "${QUICK[@]}" "${PEERS[@]}" --precision fp16 --lr-size "$SMALL" --lr-size "$LARGE" \
        -o "$OUT/bench-edsr"
    step bench-small 150 "${FLOWSR[@]}" bench "$BUNDLES/small.bundle" "${ON[@]}" \
        "${QUICK[@]}" "${PEERS[@]}" --precision fp16 --lr-size "$SMALL" --lr-size "$LARGE" \
        -o "$OUT/bench-small"
    step bench-fp32 60 "${FLOWSR[@]}" bench "${ON[@]}" "${QUICK[@]}" --lr-size "$LARGE" \
        -o "$OUT/bench-fp32"
    step bench-batch 60 "${FLOWSR[@]}" bench "$BUNDLES/edsr.bundle" "${ON[@]}" "${QUICK[@]}" \
        --lr-size "$SMALL" --batch 1,4 -o "$OUT/bench-batch"
    step bench-memory 90 "${FLOWSR[@]}" bench "$BUNDLES/edsr.bundle" "${ON[@]}" "${PACE[@]}" \
        --no-stages --scale 4 --lr-size "$LARGE" -o "$OUT/bench-memory"
    step upscale-folder 60 "${FLOWSR[@]}" upscale "$BUNDLES/edsr.bundle" "$OUT/many" \
        "${ON[@]}" -o "$OUT/upscaled" --scale 4
    step upscale-large 60 "${FLOWSR[@]}" upscale "$OUT/one/000.png" "${ON[@]}" \
        -o "$OUT/large.png" --scale 4
    step verify-fp32 120 "${FLOWSR[@]}" verify "${ON[@]}"
    step verify-fp16-small 120 "${FLOWSR[@]}" verify "$BUNDLES/small.bundle" "${ON[@]}"
    step verify-fp16-edsr 120 "${FLOWSR[@]}" verify "$BUNDLES/edsr.bundle" "${LINF[@]}" \
        "${ON[@]}"
    step verify-int8 120 "${FLOWSR[@]}" verify "$BUNDLES/int8.bundle" "${ON[@]}" --precision int8
    step bench-serve 60 "${FLOWSR[@]}" bench serve "$BUNDLES/small.bundle" "${ON[@]}" \
        --limit p90:2s --rate "$RATES" --duration 2s --lr-size "$SMALL"
    if [ "$DEVICE" = cuda ]; then
        step out-of-memory 90 python -m benchmarks.acceptance short-of-memory -- \
            "${FLOWSR[@]}" upscale "$OUT/one/000.png" "${ON[@]}" -o "$OUT/tiled.png" --scale 4 \
            --max-memory 64G
    else
        skip out-of-memory "needs a GPU"
    fi
}

# Engines of Inductor: accuracy, time beside the published code, and where the time goes.
inductor() {
    local exact="$OUT/inductor-edsr-fixed.bundle" before=() peers=()
    [ "$DEVICE" = cpu ] || before=("$OUT/inductor-edsr-plain.bundle")
    [ "$DEVICE" = cpu ] || peers=(--backend published-compiled)
    step inductor-verify 120 "${FLOWSR[@]}" verify "$exact" "${LINF[@]}" "${ON[@]}" \
        --backend inductor --precision "$HALF"
    step inductor-bench-edsr 150 "${FLOWSR[@]}" bench "$exact" "${LINF[@]}" "${ON[@]}" \
        "${QUICK[@]}" --backend inductor "${peers[@]}" --precision "$HALF" --lr-size "$LARGE" \
        "${GRAPHS[@]}" -o "$OUT/inductor-bench-edsr"
    step inductor-bench-edsr-range 90 "${FLOWSR[@]}" bench "$OUT/inductor-edsr-range.bundle" \
        "${ON[@]}" "${QUICK[@]}" --backend inductor --precision "$HALF" --lr-size "$LARGE" \
        "${GRAPHS[@]}" -o "$OUT/inductor-bench-edsr-range"
    step inductor-bench-small 90 "${FLOWSR[@]}" bench "$OUT/inductor-small-fixed.bundle" \
        "${ON[@]}" "${QUICK[@]}" --backend inductor --precision "$HALF" --lr-size "$LARGE" \
        "${GRAPHS[@]}" -o "$OUT/inductor-bench-small"
    step inductor-kernels 60 python -m benchmarks.engine_kernels "${before[@]}" "$exact" \
        "${LINF[@]}" --device "$DEVICE" --precision "$HALF" --lr-size "$LARGE" --scale 4 \
        -o "$OUT/inductor-kernels.md"
}

# Engines, where TensorRT is installed.
engines() {
    local bundle="$OUT/engine.bundle" sizes=(--scale 4 --lr-size "$LARGE")
    step engine-build 120 "${FLOWSR[@]}" build-engine "$BUNDLES/small.bundle" -o "$bundle" \
        --flavor tensorrt "${sizes[@]}" --export-layer-info "$OUT/layers.json" \
        --export-profile "$OUT/profile.json"
    step engine-list 30 "${FLOWSR[@]}" engines list "$bundle"
    step engine-bench 60 "${FLOWSR[@]}" bench "$bundle" --backend tensorrt "${QUICK[@]}" \
        --precision fp16 --lr-size "$LARGE" "${GRAPHS[@]}" -o "$OUT/engine-bench"
}

if [ "$MODE" != dry ]; then
    [ ! -e "$OUT" ] || { echo "$OUT exists; name another folder with -o" >&2; exit 1; }
    if [ "$DEVICE" = cuda ] && [ "$MODE" = run ] && ! command -v nvidia-smi > /dev/null; then
        echo "nvidia-smi is not on PATH" >&2
        exit 4
    fi
    mkdir -p "$OUT/logs" "$OUT/site" "$BUNDLES"
    : > "$OUT/steps.tsv"
    [ -z "$WHEELS" ] || for wheel in "$WHEELS"/*.whl; do
        python -m zipfile -e "$wheel" "$OUT/site"
    done
    export PYTHONPATH="$(realpath "$OUT/site"):$PWD:$PWD/export:$PWD/runtime:$PWD/calibration:${PYTHONPATH:-}"
    python -c 'from importlib.metadata import version; version("flowsr-lp")' > /dev/null 2>&1 ||
        python -m pip install --quiet --no-index --no-deps --no-build-isolation \
            --target "$OUT/site" .
    "${FLOWSR[@]}" --version >&2 || exit 4
fi

prepare
if [ "$MODE" != prepare ]; then
    [ "$MODE" = dry ] || [ ${#COMPILED[@]} -eq 0 ] || compile_peers
    build_engines
    checks
    wait
    ! grep -qP '\t(FAILED|NOT RUN)' "$OUT/steps.tsv" 2> /dev/null || FAILED=1
    inductor
    measurements
    if [ "$MODE" = dry ] || python -c 'import tensorrt; tensorrt.Builder' 2> /dev/null; then
        engines
    else
        skip engines "tensorrt is not installed"
    fi
fi
if [ "$MODE" != dry ]; then
    {
        printf '# Acceptance, %s, %s, commit %s, %s s\n\n' "$DEVICE" "$(date -u +%Y-%m-%d)" \
            "$(git rev-parse --short HEAD 2> /dev/null || echo unknown)" $((SECONDS - BEGAN))
        python -m benchmarks.acceptance table "$OUT"
        [ ! -e "$OUT/inductor-kernels.md" ] || { echo; cat "$OUT/inductor-kernels.md"; }
    } > "$OUT/table.md"
    cat "$OUT/table.md"
fi
exit "$FAILED"
