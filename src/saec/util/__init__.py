"""Small tools without knowledge of tables."""
