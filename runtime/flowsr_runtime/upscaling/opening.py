"""Check the settings of an upscaler, and open its session while others replace the bundle."""

import os

import numpy as np

from flowsr_runtime.backends.contract import Session
from flowsr_runtime.backends.session import Choice, SessionSettings
from flowsr_runtime.bundle.directory import Bundle, embedded_bundle
from flowsr_runtime.errors import ReplacedError, UsageError
from flowsr_runtime.tiling.cgroups import memory_left
from flowsr_runtime.tiling.memory import DEFAULT_MEMORY_BUDGET, ENGINE_MEMORY_BUDGET, ON_HOST

__all__ = ["check_settings", "chosen", "default_budget"]

_TRIES = 10  # to open a bundle that other processes keep replacing


def chosen(
    bundle: str | os.PathLike[str] | Bundle | None, settings: SessionSettings
) -> tuple[Bundle, Session, Choice]:
    """Open a bundle and its session, anew if another process replaces the bundle meanwhile.

    Args:
        bundle: Bundle or its directory, None for the one that ships with the package.
        settings: Settings of the session.

    Raises:
        FlowsrError: As `SessionSettings.open`.
    """
    path = embedded_bundle() if bundle is None else bundle
    opened = path if isinstance(path, Bundle) else Bundle.open(path)
    for _ in range(_TRIES - 1):
        try:
            return opened, *settings.choose(opened)
        except ReplacedError:
            opened = Bundle.open(opened.path)
    return opened, *settings.choose(opened)


def default_budget(bundle: Bundle, session: Session) -> int:
    """Return the bytes of activations that one run may take if the caller sets no budget."""
    stated = bundle.manifest.memory.budget_bytes or DEFAULT_MEMORY_BUDGET
    if session.limits is not None:  # an engine takes the memory of its profile anyway
        stated = max(stated, ENGINE_MEMORY_BUDGET)
    left = memory_left() if session.provider in ON_HOST else None
    # Half is for pictures, and what other processes take meanwhile.
    return stated if left is None else min(stated, left // 2)


def check_settings(halo: object, *, feature_cache: object = 0, **sizes: object) -> None:
    """Check the settings of an upscaler.

    Args:
        halo: Name of the halo.
        feature_cache: Bytes of features to keep.
        sizes: Bounds of memory by their names, None for none.

    Raises:
        UsageError: If one of them is invalid.
    """
    whole = (int, np.integer)
    for name, size in sizes.items():
        if size is not None and (not isinstance(size, whole) or size < 1):
            message = f"{name} must be a whole number of bytes above 0, got {size!r}"
            raise UsageError(message, option=name)
    if not isinstance(feature_cache, whole) or feature_cache < 0:
        message = f"feature_cache must be a whole number of bytes, got {feature_cache!r}"
        raise UsageError(message, option="feature_cache")
    if halo not in ("default", "exact"):
        raise UsageError(f"halo must be default or exact, got {halo!r}", option="halo")
