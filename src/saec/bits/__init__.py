"""Packed bits: codes of any width, and Elias-Fano lists."""
