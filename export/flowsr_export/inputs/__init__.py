"""Test inputs: images, sizes and the inputs of a graph."""
