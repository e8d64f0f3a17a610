"""Manifests of every kind of graph, for tests that need no graph."""

from typing import Any

from flowsr_runtime.bundle.manifest import Manifest

__all__ = ["linf_manifest", "srflow_manifest"]

LINF_TILING = {
    **{"patch": 3, "align": 12, "lr_align": 3, "ratio": None, "seam_steps": None},
    **{"halo_patches": 4, "halo_pixels": 3, "exact_patches": 8, "exact_pixels": 6},
    "whole_only": False,
}
SRFLOW_TILING = {
    **{"patch": 8, "align": 64, "lr_align": 16, "ratio": 4, "seam_steps": None},
    **{"halo_patches": 0, "halo_pixels": 16, "exact_patches": 0, "exact_pixels": 32},
    "whole_only": False,
}


def linf_manifest(scale: str | None = None, latent: bool = False) -> Manifest:
    """Return a LINF bundle's manifest, of any scale or of one."""
    latents = [{"name": "latent", "channels": 27, "patch": 3}] if latent else []
    return _manifest(
        family="linf-lp",
        scale={"kind": "any"} if scale is None else {"kind": "fixed", "value": scale},
        picture={"multiple": 1},
        graph={"geometry": scale is None},
        latents=latents,
        tiling={**LINF_TILING, "whole_only": scale is not None},
        memory={"base_bytes": 10_000, "bytes_per_pixel": 100, "bytes_per_patch": 500},
    )


def srflow_manifest(latents: bool = False) -> Manifest:
    """Return an SRFlow bundle's manifest, with a learned prior or sampled."""
    drawn = [
        {"name": "latent0", "channels": 6, "patch": 2},
        {"name": "latent1", "channels": 96, "patch": 8},
    ]
    return _manifest(
        family="srflow-lp",
        scale={"kind": "fixed", "value": "4"},
        picture={"multiple": 2},
        graph={"geometry": not latents},
        latents=drawn if latents else [],
        tiling=SRFLOW_TILING,
        memory={"base_bytes": 10_000, "bytes_per_pixel": 8_000, "bytes_per_patch": 0},
    )


def _manifest(**parts: Any) -> Manifest:
    return Manifest.parse({"schema": 1, "files": {}, **parts})
