"""Deployment modules of the model families and all that depends on the family."""
