"""LINF and LINF-LP as published."""
