"""Calibrate a bundle to eight bits, judge the result and report it."""
