"""Samples to one weighted, deduplicated, split dataset: quotas, duplicates, split, the build."""
