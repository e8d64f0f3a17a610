"""Optional libraries, the extra that installs each, and the commands that need them."""

from __future__ import annotations

import importlib.util

from flowsr_runtime.installation import pip_command

__all__ = ["EXTRAS", "NEEDS", "lacking"]

EXTRAS = {
    "fastapi": "serve",
    "jinja2": "bench",
    "matplotlib": "bench",
    "ml_dtypes": "export",
    "onnx": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "polygraphy": "export",
    "prometheus_client": "serve",
    "psutil": "bench",
    "pydantic": "serve",
    "safetensors": "export",
    "torch": "export",
    "uvicorn": "serve",
    "yaml": "export",
}

REFERENCE = ("torch", "onnx", "safetensors", "ml_dtypes", "onnxruntime")
NEEDS = {
    "upscale": ("onnxruntime",),
    "demo": ("onnxruntime",),
    "export-onnx": (*REFERENCE, "onnxscript"),
    "calibrate": (*REFERENCE, "matplotlib"),
    "verify": REFERENCE,
    "bench": ("torch", "onnx", "ml_dtypes", "onnxruntime", "matplotlib", "psutil", "jinja2"),
    "evaluate": ("onnxruntime",),
    "serve": ("fastapi", "uvicorn", "pydantic", "prometheus_client", "onnxruntime"),
    "train": ("torch", "safetensors"),
}
"""Libraries without which a command does not run, whatever its options."""


def lacking(error: ImportError, command: str) -> str | None:
    """Return one line about a library that is missing, and all others that the command needs.

    Args:
        error: Failure to import a library, or the runtime's error that it led to.
        command: Name of the command.

    Returns:
        The line with a command that installs all of them, None if the library is not one of
        `EXTRAS`.
    """
    cause = error if error.name else error.__cause__
    library = (getattr(cause, "name", None) or "").split(".")[0]
    if library not in EXTRAS:
        return None
    if not isinstance(cause, ModuleNotFoundError):
        return f"{library} cannot be loaded: {cause}"
    missing = [name for name in NEEDS.get(command, ()) if not _is_installed(name)]
    names = [library, *(name for name in missing if name != library)]
    extras = sorted({EXTRAS[name] for name in names})
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    verb = "is" if len(names) == 1 else "are"
    return f"{listed} {verb} not installed; {pip_command(*extras)}"


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module without a spec
        return False
