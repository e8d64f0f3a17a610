"""Upscale an image: tiles through a session, threads, async and cancellation."""
