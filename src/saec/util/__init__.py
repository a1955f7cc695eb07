"""Utilities that do not depend on tables."""
