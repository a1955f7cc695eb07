"""Input of compression: fields, their frequencies and loss metrics, and files of these."""
