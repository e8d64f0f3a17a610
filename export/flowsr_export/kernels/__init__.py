"""Fused kernels of the query stage, and their definitions in PyTorch."""
