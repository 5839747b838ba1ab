"""Images: class folders, raw arrays, tables that name image files."""
