"""Objectives, parameterizations, transforms, regularizers and the one optimization loop."""
