"""Forms of a compressed field (tiers, codebooks, raw tables) and lookups in them."""
