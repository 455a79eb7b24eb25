"""Everything that reads, writes or prints a table."""
