#!/usr/bin/env bash
# What a machine with a GPU has to show: the tests that need one, engines, agreement, latency.
#
# usage: benchmarks/gpu_acceptance.sh [--dry-run] [--flavor tensorrt|tensorrt-rtx] [-o FOLDER]
#
# Run it from the repository's root; `flowsr-export`, `python` and `nvidia-smi` are taken from
# PATH. FOLDER (build/gpu-acceptance) must not be there; it gets the bundles, each step's log,
# and report.md with a table of the steps, their outputs and the benchmark's own reports. A step
# that fails does not stop the others; the exit code is 1 then. --dry-run prints every command
# and runs none. Peak memory is the largest that nvidia-smi saw on the first GPU, ten times a
# second, whatever process used it: run nothing else there.

set -euo pipefail

USAGE="usage: benchmarks/gpu_acceptance.sh [--dry-run] [--flavor tensorrt|tensorrt-rtx] [-o FOLDER]"
DRY_RUN=""
FLAVOUR="tensorrt"
OUT="build/gpu-acceptance"

while [ $# -gt 0 ]; do
    case "$1" in
        --dry-run) DRY_RUN=1 ;;
        --flavor | --flavour) shift; FLAVOUR="${1:-}" ;;
        -o) shift; OUT="${1:-}" ;;
        *) echo "$USAGE" >&2; exit 2 ;;
    esac
    shift || { echo "$USAGE" >&2; exit 2; }
done

case "$FLAVOUR" in
    tensorrt) BACKEND="tensorrt" ;;
    tensorrt-rtx) BACKEND="tensorrt_rtx" ;;
    *) echo "$USAGE" >&2; exit 2 ;;
esac
[ -n "$OUT" ] || { echo "$USAGE" >&2; exit 2; }

# Everything that `verify` runs: sides to 256, windows to 512, batches to three.
FREE="1048576x1048576x1048576x1048576"
LINF_SHAPES=(
    --min-shapes "input:1x3x1x1,geometry:1x1x1x1x0x0x0x0x1x1"
    --opt-shapes "input:1x3x64x64,geometry:64x64x128x128x0x0x0x0x128x128"
    --max-shapes "input:3x3x256x256,geometry:${FREE}x${FREE}x512x512"
)
SRFLOW_SHAPES=(
    --min-shapes "input:1x3x2x2"
    --opt-shapes "input:1x3x64x64"
    --max-shapes "input:3x3x160x160"
)
# What the benchmark runs, and 1080p from a quarter of it.
SCALES="1.5,2,3,4,8"
SIZES=(--lr-size 128x128 --scale 1.5,2,3,4,8)
FULL_HD=(--lr-size 480x270 --scale 4)
PHOTO="export/flowsr_export/inputs/pictures/chelsea_256.png"
SECTIONS="" # of the report, behind its table
FAILED=0

# Run one step: its name, then the command.
step() {
    local name="$1"
    shift
    if [ -n "$DRY_RUN" ]; then
        printf '%q ' "$@"
        printf '\n'
        return
    fi
    local log="$OUT/logs/$name.log" memory="$OUT/logs/$name.memory" code=0 began ended watcher
    echo "$name" >&2
    nvidia-smi --id=0 --query-gpu=memory.used --format=csv,noheader,nounits --loop-ms=100 \
        > "$memory" 2> /dev/null &
    watcher=$!
    began=$(date +%s)
    "$@" > "$log" 2>&1 || code=$?
    ended=$(date +%s)
    kill "$watcher" 2> /dev/null || true
    wait "$watcher" 2> /dev/null || true
    [ "$code" -eq 0 ] || FAILED=1
    local peak
    peak=$(grep -E '^[0-9]+$' "$memory" | sort -n | tail -n 1 || true)
    echo "| $name | $code | $((ended - began)) | ${peak:-not seen} |" >> "$OUT/table.md"
    {
        printf '\n## %s\n\n```sh\n' "$name"
        printf '%q ' "$@"
        printf '\n```\n\n```\n'
        tail -n 80 "$log"
        printf '```\n'
    } >> "$SECTIONS"
}

# Put a report that a step wrote into ours.
include() {
    if [ -z "$DRY_RUN" ] && [ -f "$1" ]; then
        { echo; cat "$1"; } >> "$SECTIONS"
    fi
}

# Build, compare and measure one model in one precision: name, precision, scales (4 alone for
# SRFlow), then the options that name its checkpoints.
model() {
    local name="$1" precision="$2" scales="$3" bundle="$OUT/$1.bundle"
    shift 3
    local files=("$@")
    local shapes=("${LINF_SHAPES[@]}") sizes=("${SIZES[@]}")
    if [ "$scales" = 4 ]; then
        shapes=("${SRFLOW_SHAPES[@]}")
        sizes=(--lr-size 128x128)
    fi
    local common=(--flavor "$FLAVOUR" --precision "$precision")
    step "$name-$precision-build-for-verify" flowsr-export build-engine -o "$bundle" \
        "${files[@]}" "${common[@]}" "${shapes[@]}"
    step "$name-$precision-verify-$BACKEND" flowsr-export verify "$bundle" "${files[@]}" \
        --backend "$BACKEND" --precision "$precision"
    step "$name-$precision-verify-onnxruntime" flowsr-export verify "$bundle" "${files[@]}" \
        --precision "$precision"
    step "$name-$precision-build-for-bench" flowsr-export build-engine "$bundle" \
        "${files[@]}" "${common[@]}" "${sizes[@]}"
    step "$name-$precision-build-for-1080p" flowsr-export build-engine "$bundle" \
        "${files[@]}" "${common[@]}" "${FULL_HD[@]}"
    step "$name-$precision-bench" flowsr-export bench "$bundle" --backend "$BACKEND" \
        --precision "$precision" --scale "$scales" --no-stages \
        -o "$OUT/$name-$precision-bench"
    include "$OUT/$name-$precision-bench.md"
    step "$name-$precision-bench-cuda" flowsr-export bench "$bundle" --backend onnxruntime \
        --provider cuda --precision "$precision" --scale "$scales" --no-stages \
        -o "$OUT/$name-$precision-bench-cuda"
    include "$OUT/$name-$precision-bench-cuda.md"
    step "$name-$precision-bench-1080p" flowsr-export bench "$bundle" --backend "$BACKEND" \
        --precision "$precision" --scale 4 --lr-size 480x270 --no-stages \
        -o "$OUT/$name-$precision-bench-1080p"
    include "$OUT/$name-$precision-bench-1080p.md"
}

if [ -z "$DRY_RUN" ]; then
    [ ! -e "$OUT" ] || { echo "$OUT is there; name another folder with -o" >&2; exit 1; }
    command -v nvidia-smi > /dev/null || { echo "nvidia-smi is not on PATH" >&2; exit 4; }
    mkdir -p "$OUT/logs"
    SECTIONS="$OUT/sections.md"
    : > "$SECTIONS"
    printf '| step | exit code | seconds | peak GPU memory, MiB |\n| --- | --- | --- | --- |\n' \
        > "$OUT/table.md"
fi

step machine nvidia-smi
step doctor flowsr-export doctor
step tests python -m pytest -q -m gpu tests

for precision in fp32 fp16; do
    model built-in "$precision" "$SCALES"
done

step published-checkpoint python -m benchmarks.stand_in_checkpoint linf --half -o "$OUT/linf"
for precision in fp32 fp16; do
    model published "$precision" "$SCALES" \
        --model "$OUT/linf/model.safetensors" --prior "$OUT/linf/prior.safetensors"
done

step srflow-checkpoint python -m benchmarks.stand_in_checkpoint srflow -o "$OUT/srflow"
for precision in fp32 fp16; do
    model srflow "$precision" 4 \
        --model "$OUT/srflow/model.safetensors" --prior "$OUT/srflow/prior.safetensors"
done

# Pictures of eight bits, captured graphs and several workers.
step eight-bit-export flowsr-export export-onnx -o "$OUT/eight.bundle" --precision fp16 \
    --io uint8
step eight-bit-build flowsr-export build-engine "$OUT/eight.bundle" --flavor "$FLAVOUR" \
    --precision fp16 "${LINF_SHAPES[@]}"
step eight-bit-verify flowsr-export verify "$OUT/eight.bundle" --backend "$BACKEND" \
    --precision fp16
step eight-bit-upscale flowsr-export upscale "$OUT/eight.bundle" "$PHOTO" \
    -o "$OUT/eight.png" --scale 4 --backend "$BACKEND" --precision fp16 --cuda-graphs 4 \
    --workers 2
for bundle in built-in published srflow eight; do
    step "$bundle-engines" flowsr-export engines list "$OUT/$bundle.bundle"
done

if [ -z "$DRY_RUN" ]; then
    {
        printf '# Acceptance on a GPU\n\n%s, %s, commit %s\n\n' "$(date -u +%Y-%m-%d)" \
            "$FLAVOUR" "$(git rev-parse --short HEAD 2> /dev/null || echo unknown)"
        cat "$OUT/table.md" "$SECTIONS"
    } > "$OUT/report.md"
    rm "$OUT/table.md" "$SECTIONS"
    echo "$OUT/report.md"
fi
exit "$FAILED"
