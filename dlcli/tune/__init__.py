"""Search of settings: spaces, studies, the trials of one, and what they show. No torch here."""
