"""Searches, projections and layouts of vectors, a row per image."""
