"""A real S3 server for each test, and clients that look for it anew."""

from collections.abc import Iterator

import pytest
from s3fs import S3FileSystem

from qwenft_assets_tests.loopback_s3 import LoopbackS3, serving_s3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackS3]:
    """An empty bucket; clients of this process and of its children speak to it."""
    S3FileSystem.clear_instance_cache()  # a client keeps the endpoint that it was made with
    with serving_s3() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server
    S3FileSystem.clear_instance_cache()
