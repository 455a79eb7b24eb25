"""What is done with tables of scores: groups compared, the best images selected."""
