"""Export FlowSR-LP models to ONNX bundles, verify them and drive them from a command line."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("flowsr-lp")
