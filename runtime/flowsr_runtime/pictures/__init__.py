"""Read and write picture files, and handle their pixels and metadata."""
