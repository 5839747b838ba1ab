"""What may have been done to a model's structure since it was built. One file a kind of record."""
