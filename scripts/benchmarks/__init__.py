"""Benchmarks: ratios of pitr to a named yardstick, taken in one run on one machine."""
