"""Run folders: their layout, their lock, and what they say of themselves. No torch here."""
