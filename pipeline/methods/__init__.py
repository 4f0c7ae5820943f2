"""One file per published method; each registers itself when it is imported."""
