"""Image files and arrays into what a backbone sees."""
