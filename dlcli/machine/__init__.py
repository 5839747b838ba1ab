"""What this machine can do: `report.inspect_machine` is the way in.

hardware: facts of the system; installed: versions and builds, from metadata; probe: what runs in a
child process, since it may hang or crash; child: running it. None of them imports torch here.
"""
