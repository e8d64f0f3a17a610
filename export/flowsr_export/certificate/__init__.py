"""Certify a bundle: every check against PyTorch, recorded and shown as a page."""
