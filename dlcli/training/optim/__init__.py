"""How weights move: update rules, learning rates over a run, what is frozen when."""
