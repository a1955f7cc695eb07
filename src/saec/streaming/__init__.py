"""Tables in chunks: reading, map-reduce over chunks, ranks by frequency, scratch files."""
