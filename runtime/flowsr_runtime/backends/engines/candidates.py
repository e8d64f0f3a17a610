"""The libraries and precisions of a bundle's engines, as candidates for a session."""

from collections.abc import Callable, Sequence
from typing import Final

from flowsr_runtime.bundle.directory import Bundle
from flowsr_runtime.bundle.engine_store import FLAVOURS, EngineStore

__all__ = ["INDUCTOR", "engine_candidates"]

INDUCTOR: Final = "inductor"
"""The library whose engines also run on a CPU."""


def engine_candidates(
    bundle: Bundle,
    backend: str | None,
    precision: str | None,
    *,
    order: Sequence[str],
    preferred: Callable[[], str],
    on_cpu: bool,
    required: bool,
) -> list[tuple[str, str]]:
    """Return the libraries and precisions to try, the best first; no library is imported.

    Args:
        bundle: Bundle with engines or without.
        backend: Library of the engines, None for any.
        precision: Precision of the engines, None for any.
        order: Precisions, the preferred one first.
        preferred: Returns the precision of the bundle's graph that would run otherwise.
        on_cpu: Whether engines for a CPU are meant, not for GPUs.
        required: Whether a named library is a candidate without an engine; the session then
            explains which one is missing.

    Returns:
        Pairs of library and precision. Of Inductor's engines that are not named only those
        that have run count, and on a CPU only those as precise as the graph.
    """
    keys = [
        entry.key
        for entry in EngineStore(bundle.path).entries()
        if entry.key.on_cpu == on_cpu
        and (backend or entry.key.flavour != INDUCTOR or entry.facts.get("qualified") is True)
    ]
    found = []
    for flavour in FLAVOURS if backend is None else (backend,):
        built = {key.precision for key in keys if key.flavour == flavour}
        names = [name for name in order if name in built and precision in (None, name)]
        if backend is None and on_cpu:
            names = [name for name in names if precision or name == preferred()]
        if backend is not None and not names and required:
            names = [precision or preferred()]
        found += [(flavour, name) for name in names]
    return found
