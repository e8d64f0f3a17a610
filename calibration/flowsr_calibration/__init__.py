"""Room for quantization: calibration pictures to ranges, ranges to a Q/DQ ONNX file.

The package is empty in this version: bundles hold FP32 and FP16 graphs only.
"""

__all__: list[str] = []
