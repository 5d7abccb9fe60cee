"""Upstream rows to instruction rows: one file a source, one list of them in `sample.py`."""
