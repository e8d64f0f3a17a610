"""Write a model repository for NVIDIA Triton."""
