"""Layers of an engine and their times, as the JSON files that trtexec and TREX have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from flowsr_export.engine.build_log import BuildLog
from flowsr_export.engine.builder import Built

__all__ = ["layer_information", "layer_profile"]

LIST = r"\[\]|\[ \{.*?\}\]"
LAYER = re.compile(
    rf"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), Inputs: (?P<inputs>{LIST})"
    rf"(?:, Constants: (?P<constants>{LIST}))?, Outputs: (?P<outputs>{LIST})(?P<rest>.*)"
)
TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?),(?: Location: \w+,)? Dimensions: \[(?P<sides>[^\]]*)\].*?"
    r"Datatype: (?P<type>\w+)(?:, Format: (?P<format>[^}]*?))? \}"
)
TACTIC = re.compile(r"TacticName: ([^,]*)")
STREAM = re.compile(r"StreamId: (\d+)")
METADATA = re.compile(r"Metadata: (.*)$")
BINDING = re.compile(r"^ ?Name: ([^,]+), IOMode:", re.MULTILINE)
# Types in the words of the inspector's "Format/Datatype".
WORDS = {"Float": "FP32", "Half": "FP16", "BFloat16": "BF16"}


def layer_information(trt: Any, built: Built, *, on_device: bool) -> dict[str, Any]:
    """Return the layers as trtexec's --exportLayerInfo has them.

    Args:
        trt: Module `tensorrt` or `tensorrt_rtx`.
        built: Output of its build.
        on_device: Whether a GPU can open the engine, so that its inspector is asked; else the
            layers are those of the builder's log.

    Returns:
        "Layers", a list of objects, and "Bindings", the names of inputs and outputs.
    """
    if on_device:
        with BuildLog(None) as log:
            runtime = trt.Runtime(log.logger(trt))
            runtime.engine_host_code_allowed = True  # this process built the plan
            engine = runtime.deserialize_cuda_engine(built.plan)
            if engine is not None:
                form = trt.LayerInformationFormat.JSON
                text = engine.create_engine_inspector().get_engine_information(form)
                information: dict[str, Any] = json.loads(text)
                return information
    return {
        "Layers": _layers_of_log(built.layers),
        "Bindings": BINDING.findall(built.layers.partition("I/O Tensors:")[2])
        or [tensor["name"] for tensor in built.tensors],
    }


def layer_profile(times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return the times of layers as trtexec's --exportProfile has them.

    Args:
        times: Milliseconds of every run by layer, in the order of the engine.

    Returns:
        The number of runs, then name, total, mean and median milliseconds and percentage of
        each layer.
    """
    total = sum(sum(each) for each in times.values()) or 1.0
    rows = [
        {
            "name": name,
            "timeMs": sum(each),
            "averageMs": sum(each) / len(each),
            "medianMs": median(each),
            "percentage": 100 * sum(each) / total,
        }
        for name, each in times.items()
    ]
    return [{"count": max((len(each) for each in times.values()), default=0)}, *rows]


def _layers_of_log(text: str) -> list[dict[str, Any]]:
    layers = []
    for line in text.split("\nI/O Tensors:")[0].splitlines():
        found = LAYER.match(line.strip())
        if found is None:
            continue
        layer: dict[str, Any] = {
            "Name": found["name"],
            "LayerType": found["kind"],
            "Inputs": _tensors(found["inputs"]),
            "Outputs": _tensors(found["outputs"]),
        }
        if found["constants"] is not None:
            layer["Constants"] = _tensors(found["constants"])
        rest = found["rest"]
        for name, pattern in (("TacticName", TACTIC), ("Metadata", METADATA)):
            value = pattern.search(rest)
            layer[name] = "" if value is None else value[1]
        stream = STREAM.search(rest)
        layer["StreamId"] = 0 if stream is None else int(stream[1])
        layers.append(layer)
    return layers


def _tensors(text: str) -> list[dict[str, Any]]:
    return [
        {
            "Name": found["name"],
            "Dimensions": [int(side) for side in found["sides"].split(",") if side.strip()],
            "Format/Datatype": _described(found["type"], found["format"] or ""),
        }
        for found in TENSOR.finditer(text)
    ]


def _described(kind: str, form: str) -> str:
    """Return a format with its type in it, such as "Row major linear FP32 format"."""
    word = WORDS.get(kind, kind.upper())
    form = re.sub(r"^\(\w+\) ", "", form)
    return form.replace("format", f"{word} format", 1) if "format" in form else word
