"""Plan tiles within a memory budget, blend them, and draw their noise."""
