"""Compare an exported graph with the PyTorch reference."""
