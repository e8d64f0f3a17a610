"""Read and write bundles: manifest, files and engines."""
