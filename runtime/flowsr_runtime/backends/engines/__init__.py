"""Engines of a bundle: which of them run here, the choice for a run, and Inductor's."""
