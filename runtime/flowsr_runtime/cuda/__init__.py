"""Use a GPU through the CUDA runtime: memory, arrays, DLPack and graphs."""
