"""Write a bundle into a model repository of NVIDIA Triton."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from flowsr_export.triton.config import TritonModelConfig, check_options, config_of, warm_ups
from flowsr_export.triton.pbtxt import text_of
from flowsr_runtime import Bundle
from flowsr_runtime.atomic import locked, recover_directory, replace_directory
from flowsr_runtime.bundle.directory import MANIFEST_NAME
from flowsr_runtime.bundle.engine_key import Profile
from flowsr_runtime.bundle.engine_store import EngineEntry, EngineStore
from flowsr_runtime.errors import BundleError, OutputError, UsageError

__all__ = ["write_repository"]

CONFIG_NAME = "config.pbtxt"
VERSION = "1"
MODEL_FILE = Path(__file__).with_name("python_model.py")


def write_repository(
    bundle: Bundle, repository: Path, options: TritonModelConfig, *, force: bool = False
) -> Path:
    """Write a model into a repository atomically; its other models are kept.

    Args:
        bundle: The bundle.
        repository: Folder of models, created if it is missing.
        options: Configuration of the served model.
        force: Replace a model of the same name.

    Returns:
        The model's folder.

    Raises:
        UsageError: If the configuration is not valid.
        BundleError: If the bundle lacks the graph or the engine, or is damaged.
        OutputError: If the target exists and `force` is not set, is not a model, or cannot be
            written.
    """
    check_options(options)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*", options.name) is None:
        rule = "letters, digits, dots, dashes and underscores"
        raise UsageError(f"name must be {rule}, got {options.name!r}", option="name")
    target = Path(os.path.abspath(repository)) / options.name
    _check_replaceable(target, force)
    files = _files(bundle, options)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            recover_directory(target)
            _check_replaceable(target, force)
            replace_directory(target, files)
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"model {target} cannot be written: {reason}") from error
    return repository / options.name


def _check_replaceable(target: Path, force: bool) -> None:
    if not os.path.lexists(target):
        return
    if not force:
        raise OutputError(f"model {target} exists; force=True replaces it", option="force")
    if target.is_symlink() or not (target / CONFIG_NAME).is_file():
        raise OutputError(f"{target} is not a Triton model; remove it, or choose another name")


def _files(bundle: Bundle, options: TritonModelConfig) -> dict[str, bytes]:
    """Return the files of a model's folder by name; files of the bundle are verified."""
    profiles: Sequence[Profile] = ()
    if options.backend == "tensorrt":
        entry = _engine(bundle, options)
        profiles = entry.key.profiles
        content = {"model.plan": EngineStore(bundle.path).read(entry)}
    elif options.backend == "onnxruntime":
        content = {"model.onnx": bundle.model_bytes(options.precision)}
    else:
        content = _python_files(bundle, options.precision)
    warm = warm_ups(bundle.manifest, options, profiles)
    config = text_of(config_of(bundle.manifest, options, warm, profiles))
    files = {CONFIG_NAME: config.encode()}
    files |= {f"{VERSION}/{name}": data for name, data in content.items()}
    for request in warm:
        files |= {f"warmup/{name}": data for name, data in request.files().items()}
    return files


def _python_files(bundle: Bundle, precision: str) -> dict[str, bytes]:
    """Return the Python model and a bundle with the graphs of the precision that it runs."""
    models = {bundle.model_name(precision), *(g.file for g in bundle.size_fixed(precision))}
    raw = bundle.manifest.raw
    kept = [name for name in raw["files"] if name in models or not name.endswith(".onnx")]
    manifest = {**raw, "files": {name: raw["files"][name] for name in kept}}
    if "graphs" in raw:
        manifest["graphs"] = [graph for graph in raw["graphs"] if graph["file"] in kept]
    for key in ("stages", "latent_graphs"):  # a request has one scale, and no latent
        manifest.pop(key, None)
    text = json.dumps(manifest, indent=1) + "\n"
    files = {"model.py": MODEL_FILE.read_bytes(), f"bundle/{MANIFEST_NAME}": text.encode()}
    return files | {f"bundle/{name}": bundle.read(name) for name in kept}


def _engine(bundle: Bundle, options: TritonModelConfig) -> EngineEntry:
    """Return the chosen engine of TensorRT; Triton does not load engines of RTX."""
    digest = bundle.manifest.files[bundle.model_name(options.precision)].sha256
    engines = {
        Path(entry.name).stem: entry
        for entry in EngineStore(bundle.path).entries()
        if entry.key.flavour == "tensorrt" and entry.key.onnx_sha256 == digest
    }
    if not engines:
        engine = f"{options.precision} engine of TensorRT"
        raise BundleError(f"{bundle.path} holds no {engine}, and Triton loads no others")
    names = ", ".join(engines)
    if options.engine is None:
        if len(engines) > 1:
            raise UsageError(f"engine must be one of {names}", option="engine")
        return next(iter(engines.values()))
    entry = engines.get(options.engine.removesuffix(".engine").removeprefix("engines/"))
    if entry is None:
        message = f"engine must be one of {names}, got {options.engine!r}"
        raise UsageError(message, option="engine")
    return entry
