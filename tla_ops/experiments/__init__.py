"""One module for each table, figure or demonstration; each writes its numbers to a file."""
