"""The page to explore a data set's embeddings: its map, its grid, the neighbors of any image."""
