"""Opinion scores: from people's votes to a score with an interval for each image, and how far the raters agree."""
