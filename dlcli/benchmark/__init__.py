"""Latency, throughput, memory and start-up time of model files, each in a process of its own."""
