"""Tiny models run on one thread."""

from qwenft_assets_tests.one_thread import one_thread as one_thread
