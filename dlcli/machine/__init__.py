"""What this machine is and can do: `facts.probe_facts` is the way in, `causes` judge what it returns.

host: where the system is read; hardware, nvidia, cgroups: its facts; installed: versions and builds, by
their metadata; probe, operations, deep: what runs in a child process, since it may hang or crash; child:
running it; requirements: ``--require``. None of them imports torch here.
"""
