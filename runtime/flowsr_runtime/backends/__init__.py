"""Run a model on ONNX Runtime, OpenVINO, TensorRT or TensorRT for RTX, once it is tested."""
