"""What is compressed: fields, their frequencies and loss metrics, and the files they come from."""
