"""Learning rate schedules by name; a new file here that registers one is imported automatically."""
