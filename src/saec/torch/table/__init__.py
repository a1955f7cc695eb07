"""What a compressed module stores: parameters and codes by codec."""
