"""LINF-LP restated for deployment."""
