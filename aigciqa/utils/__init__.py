"""What any part may use: files, paths, object stores, hardware, memory."""
