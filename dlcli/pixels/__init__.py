"""Image files and raw arrays to pixels: which formats, within which memory, of how many bits."""
