"""Quantization to eight bits: ranges from calibration images, and a Q/DQ ONNX file."""

from flowsr_calibration.crops import CropPlan, Pictures, find_pictures
from flowsr_calibration.layers import Layer, blocks_of, layers_of
from flowsr_calibration.quantize import QuantizationForm, quantize_layers, tensors_of
from flowsr_calibration.ranges import METHODS, activation_range
from flowsr_calibration.statistics import Statistics
from flowsr_runtime.installation import __version__

__all__ = [
    "METHODS",
    "CropPlan",
    "QuantizationForm",
    "Layer",
    "Pictures",
    "Statistics",
    "__version__",
    "activation_range",
    "blocks_of",
    "find_pictures",
    "layers_of",
    "quantize_layers",
    "tensors_of",
]
