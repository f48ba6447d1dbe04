"""What people's sources are made of: text files that list files or classes, and folders."""
