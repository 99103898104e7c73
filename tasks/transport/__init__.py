"""How rows and outputs travel between the sides: Redis, files, slices."""
