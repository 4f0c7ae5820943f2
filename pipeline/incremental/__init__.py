"""What a covered window changes, and only that."""
