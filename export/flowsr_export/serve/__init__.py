"""Serve a model over HTTP on one machine."""

from flowsr_export.serve.app import create_app

__all__ = ["create_app"]
