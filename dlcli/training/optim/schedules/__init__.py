"""Learning rate schedules by name; a new file that registers a schedule is found by itself."""
