"""Marks of tests that need Ray: left out, with the reason, where it is not installed."""

import importlib.util

import pytest

needs_ray = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed: pip install 'qwenft[ray]'",
    )
]
