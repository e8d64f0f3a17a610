"""Export a checkpoint to ONNX and write it as a bundle."""
