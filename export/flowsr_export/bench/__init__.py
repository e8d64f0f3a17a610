"""Benchmark latency, memory and throughput."""
