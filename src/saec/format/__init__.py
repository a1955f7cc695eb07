"""What an artifact holds: tiers, codebooks and fields, and how rows are looked up in them."""
