"""Export FlowSR-LP models to ONNX bundles, verify them and drive them from a command line."""

__all__: list[str] = []
