"""Upscale the images of a folder on a Ray cluster with Ray Data.

    pip install '.[cpu,ray]'
    python examples/ray_upscale.py photos/ -o large/ --scale 4 --workers 2

The folders need the same paths on every machine. Existing outputs are skipped, so the same
command resumes after an interruption. `flowsr-export upscale photos/ -o large/ --scale 4 --ray`
does the same; use the map class where upscaling is one step of a longer pipeline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ray
import ray.data

from flowsr_export.upscale.jobs import Request
from flowsr_export.upscale.ray import PictureMapper, WorkerConfig
from flowsr_runtime import SessionSettings, embedded_bundle


def main() -> None:
    """Upscale a folder and list the failures."""
    parser = argparse.ArgumentParser(description="Upscale a folder with Ray Data.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--scale", default="4")
    parser.add_argument("--bundle", type=Path, default=embedded_bundle())
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    config = WorkerConfig(
        given.bundle.absolute(), SessionSettings(threads=1), Request(given.scale, None)
    )
    rows = [
        {"source": str(path.absolute()), "target": str(_target(path, given.output))}
        for path in sorted(given.folder.glob("*.png"))
    ]
    answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        PictureMapper,
        fn_constructor_args=(config,),
        compute=ray.data.ActorPoolStrategy(size=given.workers),
        num_cpus=1,
    )
    failed = [answer["reason"] for answer in answers.iter_rows() if answer["reason"]]
    if failed:
        raise SystemExit("\n".join(failed))


def _target(path: Path, folder: Path) -> Path:
    return (folder / path.name).absolute()


if __name__ == "__main__":
    main()
