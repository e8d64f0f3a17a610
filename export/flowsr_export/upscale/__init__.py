"""Upscale files: jobs, the concurrent pipeline, dry runs, devices and Ray."""
