"""Check, count and rewrite ONNX graphs."""
