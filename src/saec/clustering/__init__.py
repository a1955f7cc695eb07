"""Weighted k-means over points in memory, in files or on other machines."""
