"""Lookups of compressed tables in PyTorch: one operator, and plain tensor operations."""
