"""Open a model on each of several devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from flowsr_runtime import Bundle, SessionSettings, Upscaler
from flowsr_runtime.errors import UsageError
from flowsr_runtime.tiling.memory import ON_HOST

__all__ = ["is_on_host", "open_upscalers"]


@contextmanager
def open_upscalers(
    bundle: Bundle,
    settings: SessionSettings,
    devices: Sequence[int] | None = None,
    *,
    max_memory: int | None = None,
    halo: Literal["default", "exact"] = "default",
    feature_cache: int = 0,
) -> Iterator[list[Upscaler]]:
    """Open a bundle on each device, and close all of them at the end.

    Args:
        bundle: Bundle with the model.
        settings: Settings of the sessions.
        devices: GPU indices, None for the device of the settings.
        max_memory: As for `Upscaler.open`, per GPU.
        halo: As for `Upscaler.open`.
        feature_cache: As for `Upscaler.open`.

    Yields:
        One upscaler per device, in order.

    Raises:
        UsageError: If devices are given without a GPU backend, or repeated.
        FlowsrError: As `SessionSettings.open`.
    """
    upscalers: list[Upscaler] = []
    with ExitStack() as stack:
        for one in [settings] if devices is None else _on_each(settings, devices):
            if upscalers and upscalers[0].choice is not None:  # all run alike
                one = dataclasses.replace(upscalers[0].choice.settings, device=one.index)
            one = dataclasses.replace(one, gpu_memory=max_memory)
            session, choice = one.choose(bundle)
            upscaler = Upscaler(
                bundle,
                session,
                max_memory=max_memory,
                halo=halo,
                choice=choice,
                feature_cache=feature_cache,
            )
            upscalers.append(stack.enter_context(upscaler))
        yield upscalers


def is_on_host(settings: SessionSettings) -> bool:
    """Return whether sessions run on the CPU, in the memory of the process.

    Args:
        settings: Settings; with backend auto only those of a `Choice` are certain.
    """
    if settings.device == "cpu":
        return True
    if settings.provider is not None:
        return settings.provider in ON_HOST
    if settings.backend == "openvino":
        return True
    return settings.backend == "onnxruntime" and not isinstance(settings.device, str)


def _on_each(settings: SessionSettings, devices: Sequence[int]) -> list[SessionSettings]:
    if is_on_host(settings):
        message = f"devices must be GPUs, and provider {settings.provider or 'cpu'} uses none"
        raise UsageError(message, option="devices")
    if len(set(devices)) < len(devices):
        raise UsageError(f"devices must be distinct, got {list(devices)}", option="devices")
    return [dataclasses.replace(settings, device=f"cuda:{index}") for index in devices]
