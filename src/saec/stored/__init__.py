"""Compressed fields: one class for each way in which a table is stored, by codec."""
