"""One media file -> frames, and what is wrong with it."""
