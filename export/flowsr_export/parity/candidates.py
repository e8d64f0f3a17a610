"""Open a model with every provider that starts, or with the one that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TypeVar

from flowsr_runtime import Bundle, ParityError, ProviderError, Session, SessionSettings
from flowsr_runtime.backends.onnxruntime_session import present_providers
from flowsr_runtime.backends.session import AUTO

__all__ = ["GPU_PROVIDERS", "label_of", "open_candidates", "open_each_provider"]

GPU_PROVIDERS = ("cuda", "tensorrt")  # the others have one device

OpenT = TypeVar("OpenT")


def open_candidates(
    bundle: Bundle,
    settings: SessionSettings,
    precisions: Sequence[str],
    stack: ExitStack,
    unsupported: Callable[[SessionSettings], str | None] = lambda settings: None,
) -> tuple[dict[SessionSettings, Session], dict[str, str]]:
    """Open the graphs of a bundle with every provider, without self-tests.

    What is opened is compared in more cases than a self-test has.

    Args:
        bundle: The bundle.
        settings: Backend, provider, device and threads; without a provider every one of ONNX
            Runtime's is tried.
        precisions: Precisions of the graphs.
        stack: Closes the sessions.
        unsupported: Returns the reason why settings are not tried, None to try them.

    Returns:
        Sessions by their settings, and by label the reason why others did not start.

    Raises:
        ProviderError: If the chosen provider, or the CPU, does not start.
        BundleError: If a graph cannot be loaded.
    """
    sessions: dict[SessionSettings, Session] = {}
    not_started: dict[str, str] = {}
    for precision in precisions:
        opened, failed = open_each_provider(
            replace(settings, precision=precision),
            lambda one: stack.enter_context(closing(one.start(bundle))),
            unsupported,
        )
        sessions |= opened
        not_started |= failed
    return sessions, not_started


def open_each_provider(
    settings: SessionSettings,
    open_one: Callable[[SessionSettings], OpenT],
    unsupported: Callable[[SessionSettings], str | None] = lambda settings: None,
) -> tuple[dict[SessionSettings, OpenT], dict[str, str]]:
    """Open a model once for each provider; see `open_candidates`.

    Args:
        settings: Settings; without a provider every one of ONNX Runtime's is tried, also
            with backend auto.
        open_one: Opens the model with settings that name a provider.
        unsupported: Returns the reason why settings are not tried, None to try them.

    Raises:
        ProviderError: If the chosen provider, or the CPU, does not start.
        ParityError: If it misses the self-test, where `open_one` makes one.
    """
    opened: dict[SessionSettings, OpenT] = {}
    not_started: dict[str, str] = {}
    if settings.backend == AUTO:
        settings = replace(settings, backend="onnxruntime")
    is_chosen = settings.provider is not None or settings.backend != "onnxruntime"
    for provider in [settings.provider] if is_chosen else present_providers():
        device = settings.index if is_chosen or provider in GPU_PROVIDERS else 0
        one = replace(settings, provider=provider, device=device)
        reason = unsupported(one)
        if reason is not None:
            not_started[label_of(one)] = reason
            continue
        try:
            opened[one] = open_one(one)
        except (ProviderError, ParityError) as error:
            if is_chosen or provider == "cpu":
                raise
            not_started[label_of(one)] = str(error)
    return opened, not_started


def label_of(settings: SessionSettings) -> str:
    """Return backend, provider and precision as reports name them."""
    return f"{settings.backend} {settings.provider or 'cuda'} {settings.precision}"
