"""`dlcli quantize`: the variants of a model, the choice among them, and what it costs."""
