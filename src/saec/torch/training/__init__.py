"""Training of a model whose tables will be compressed."""
