"""Hashes of keys, and functions of keys that do not store them."""
