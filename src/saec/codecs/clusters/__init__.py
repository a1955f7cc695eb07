"""The codec ``Clusters``: the paper's centroids, one code per feature."""
