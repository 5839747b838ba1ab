"""The page of a run, or of several side by side: one HTML file of recorded facts, without a network.

`reading` reads a run's files and validates them, since they may be damaged or another person's. A
function of `run_sections` or `compared_sections` makes each section of plain blocks (`blocks`), with
pictures of `charts` and `class_charts`, and `page` renders them by one template. Nothing here needs a
model or its data.
"""
