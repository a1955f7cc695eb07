"""Tables of compressed modules: parameters and codes by codec."""
