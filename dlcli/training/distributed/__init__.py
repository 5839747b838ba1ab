"""Several processes: how they start, meet, agree, fail and go on."""
