"""Weighted k-means over points that may live anywhere."""
