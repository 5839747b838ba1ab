"""Channel removal: which channels belong together, which matter least, and how they are taken out."""
