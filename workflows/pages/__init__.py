"""What a person opens: the pages of a folder of runs."""
