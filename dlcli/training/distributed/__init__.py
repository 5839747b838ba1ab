"""Distributed training: launcher, ranks, collectives, failures and restarts."""
