"""Build TensorRT engines, list them and check the precision they compute in."""
