"""GPU kernels for lookups."""
