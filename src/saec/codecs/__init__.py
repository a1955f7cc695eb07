"""Ways to code a table; each is a frozen dataclass of its options."""
