"""Run a model on ONNX Runtime, TensorRT or TensorRT for RTX."""
