"""Values of the published recipes, and of the released files by their names."""

from __future__ import annotations

from typing import Final

__all__ = ["PRESETS", "PUBLISHED", "SECOND_PRESETS"]

Values = dict[str, str]

# LINF and LINF-LP (arXiv 2303.05156, 2403.10988): 1000 epochs in batches of 16, halved every
# 200 epochs; an epoch takes each of DF2K's 3450 images 8 times.
LINF: Final = {
    "--batch": "16",
    "--crop": "96",
    "--scale-range": "1,4",
    "--scale-per": "image",
    "--steps": "1725000",
    "--learning-rate": "1e-4",
    "--halve-at": "0.2,0.4,0.6,0.8",
    "--ema-decay": "0",
}
# The configurations of LINF's authors train the second stage at half the rate of the first.
SECOND: Final = {"--learning-rate": "5e-5"}
# SRFlow (arXiv 2006.14200): 200,000 steps on patches of 160 pixels at 4x.
SRFLOW: Final = {
    "--batch": "16",
    "--crop": "40",
    "--steps": "200000",
    "--learning-rate": "5e-4",
    "--halve-at": "0.5,0.75,0.9,0.95",
    "--ema-decay": "0",
    "--quant": "32",
    "--trunk-from": "0.5",
}
# SRFlow-LP_DF2K_4X.yml of the authors of SRFlow-LP.
SRFLOW_LP: Final = {
    "--batch": "12",
    "--crop": "40",
    "--steps": "70000",
    "--learning-rate": "2.5e-4",
    "--halve-at": "0.5,0.75,0.9,0.95",
    "--ema-decay": "0",
}
# RRDB_DF2K_4X.yml of SRFlow's authors, without the restarts of its cosine.
RRDB: Final = {
    "--batch": "16",
    "--crop": "40",
    "--steps": "200000",
    "--learning-rate": "2e-4",
    "--ema-decay": "0",
}
PUBLISHED: Final[dict[str, Values]] = {
    "linf": LINF,
    "linf stage 2": LINF | SECOND,
    "linf prior": LINF,
    "srflow": SRFLOW,
    "srflow prior": SRFLOW_LP,
    "rrdb": RRDB,
}
"""Values of the published recipes by network and option."""

# Configurations of LINF's authors: input crops of 48; DIV2K's 800 images 20 times an epoch.
PIXELS: Final = LINF | {"--crop": "48", "--steps": "1000000", "--patch-size": "1"}
SWINIR: Final = {"--batch": "32", "--steps": "500000", "--halve-at": "0.5,0.8,0.9,0.95"}
PRIOR: Final = LINF | {"--prior": "unet", "--depth": "3", "--dim": "64"}
FLOW_4X: Final = SRFLOW | {"--system": "srflow", "--scale": "4"}
FLOW_8X: Final = SRFLOW | {"--system": "srflow", "--scale": "8", "--crop": "20"}
RRDB_8X: Final = RRDB | {"--scale": "8", "--crop": "20"}

PRESETS: Final[dict[str, dict[str, Values]]] = {
    "flow": {
        "edsr-baseline-linf": LINF | {"--encoder": "edsr-baseline", "--patch-size": "3"},
        "rrdb-linf": LINF | {"--encoder": "rrdb", "--patch-size": "3"},
        "EDSR-baseline-LINF": PIXELS | {"--encoder": "edsr-baseline"},
        "RDN-LINF": PIXELS | {"--encoder": "rdn"},
        "SwinIR-LINF": PIXELS | SWINIR | {"--encoder": "swinir"},
        "RRDB-LINF": LINF | {"--encoder": "rrdb", "--patch-size": "3", "--crop": "48"},
        "SRFlow_DF2K_4X": FLOW_4X | {"--learning-rate": "2.5e-4"},
        "SRFlow_DF2K_8X": FLOW_8X,
        "SRFlow_CelebA_8X": FLOW_8X | {"--nb": "8"},
    },
    "prior": {
        "edsr-baseline-linf-LP": PRIOR,
        "rrdb-linf-LP": PRIOR,
        "SRFlow-LP": SRFLOW_LP | {"--prior": "unet", "--depth": "3", "--dim": "64"},
    },
    "rrdb": {
        "RRDB_DF2K_4X": RRDB,
        "RRDB_DF2K_8X": RRDB_8X,
        "RRDB_CelebA_8X": RRDB_8X | {"--nb": "8"},  # as many as its SRFlow has
    },
}
"""Network and recipe of each released file by command, under the names that fetch lists."""

# Without VGG features but for RRDB; SwinIR takes 1500 epochs, the others 1000.
SECOND_PIXELS: Final = SECOND | {"--perceptual-weight": "0"}
SECOND_SWINIR: Final = {"--steps": "750000", "--halve-at": "0.53333,0.73333,0.86667,0.93333"}
SECOND_PRESETS: Final[dict[str, Values]] = {
    "edsr-baseline-linf": LINF | SECOND,
    "rrdb-linf": LINF | SECOND,
    "EDSR-baseline-LINF": PIXELS | SECOND_PIXELS,
    "RDN-LINF": PIXELS | SECOND_PIXELS,
    "SwinIR-LINF": PIXELS | SWINIR | SECOND_PIXELS | SECOND_SWINIR,
    "RRDB-LINF": LINF | SECOND | {"--crop": "48"},
}
"""The same for LINF's second stage, whose network is that of `--start`."""
