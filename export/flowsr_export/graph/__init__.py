"""The networks restated in PyTorch for export."""
