"""Headings of the help, and the options under each."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["section_of", "sections"]

SECTIONS: dict[str, str] = {
    "Basic": """
        --all --all-frames --allow-host --base-url --batch --compute-capability --config --data
        --engine --exact --first --fit --flavor --height --host --hr --images --list
        --locate --lr --lr-size --name --other-versions --port --preset --quick --recipe
        --recursive --resample --scale --size --stage --start --steps --sweep --system --table
        --threshold --tolerance --toward --validation --weight --weights --width
    """,
    "Output": """
        --access-log --background --depth --dry-run --export-layer-info --export-profile
        --force --format --gpu --json --keep --log --output --quality --skip-existing
        --truncate --work
    """,
    "Model": """
        --blocks --bundle --fixed-scale --guard --io --least-share --model --opset --precision
        --prior --prior-mix --seed --temperature --temperature-map --vgg
    """,
    "Quantization": "--crop --exclude --method --per-tensor",
    "Quality": """
        --alexnet --baseline --border --budget-db --dists-weights --downsample --lpips-weights
        --lr-values --max-psnr-loss --metric --protocol --published --samples --score --shave
        --ssim --values --vgg16
    """,
    "Measurement": """
        --arrivals --duration --limit --memory --min-runs --percentile --rate --stages
        --streams --url --warm-up
    """,
    "Network": """
        --coupling-width --dim --encoder --flow-layers --gc --hidden-dim --n-feats
        --n-resblocks --nb --nf --num-layer --patch-size --steps-per-level
    """,
    "Losses": """
        --gain-weight --latent-weight --likelihood-weight --mesh-weight --perceptual-weight
        --phase-weight --pixel-weight --range-weight --rescaled-weight --sample-temperature
        --shift-weight --vgg-layer
    """,
    "Augmentation": "--color --fonts --gray --synthetic",
    "Training": """
        --ema-decay --halve-at --learning-rate --quant --save-every --scale-per --scale-range
        --snapshot-every --trunk-from --validation
    """,
    "Limits": """
        --body-timeout --instances --jobs --max-batch --max-body --max-output-pixels
        --max-pixels --max-queue --queue --timeout
    """,
    "Performance": """
        --backend --convolution-search --cuda-graphs --device --devices --feature-cache --halo
        --image-memory --max-memory --provider --self-test --threads --tf32 --workers
    """,
    "Shapes": "--max-shapes --min-shapes --opt-shapes",
    "Builder": """
        --builder-optimization-level --hardware-compatibility-level --kernels --max-aux-streams
        --tiling-optimization-level --timing-cache --version-compatible --workspace
    """,
    "Cluster": "--ray --ray-address --ray-workers",
    "General": "--help --quiet --verbose --version",
}

# Options that mean something else in one command.
BY_COMMAND: dict[str, dict[str, str]] = {
    "export-onnx": {"Model": "--latents --stages"},
    "upscale": {"Model": "--samples"},
    "run": {"Measurement": "--blocks --seed"},
    "build-engine": {"Builder": "--tf32"},
    "calibrate": {"Quantization": "--precision --samples --seed"},
    "flow": {"Network": "--blocks --scale", "Training": "--batch --crop --seed"},
    "rrdb": {"Network": "--scale", "Training": "--batch --crop --seed"},
    "prior": {"Network": "--depth --prior", "Training": "--batch --crop --seed"},
}

SECTION_OF = {flag: heading for heading, flags in SECTIONS.items() for flag in flags.split()}
EXCEPTIONS = {
    command: {flag: heading for heading, flags in table.items() for flag in flags.split()}
    for command, table in BY_COMMAND.items()
}


def sections() -> list[str]:
    """Return the headings in the order of the help."""
    return list(SECTIONS)


def section_of(command: str | None, flags: Sequence[str]) -> str:
    """Return the heading of an option.

    Args:
        command: Name of its command.
        flags: Names of the option.
    """
    table = SECTION_OF | EXCEPTIONS.get(command or "", {})
    return next((table[flag] for flag in flags if flag in table), "Basic")
