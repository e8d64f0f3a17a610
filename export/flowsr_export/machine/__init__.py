"""Describe this machine: libraries, hardware and load."""
