"""Find, count and replace the embedding tables of a model; the modules that replace them."""
