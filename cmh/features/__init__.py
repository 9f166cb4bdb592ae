"""From pictures and texts to vectors, computed once and memory-mapped."""
