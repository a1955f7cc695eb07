"""Embedding tables of a model: find, count, replace; the modules that take their place."""
