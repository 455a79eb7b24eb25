"""A head fitted to few ratings of one's own."""
