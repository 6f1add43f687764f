"""The decision log: every answer as a row, written, published and read back."""
