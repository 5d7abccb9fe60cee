"""Hashes that decide versions, keys and orders: the same on every machine and in every process."""

from __future__ import annotations

import hashlib


def short_hash(*parts: str | None) -> str:
    """The first 16 hex digits of a sha256 over the parts; None differs from the empty text."""
    pieces: list[bytes] = []
    for part in parts:
        encoded = b"\0" if part is None else b"\1" + part.encode("utf-8", "surrogatepass")
        pieces += (len(encoded).to_bytes(8, "big"), encoded)
    return hashlib.sha256(b"".join(pieces)).hexdigest()[:16]


def seeded_order(seed: int, row_id: str) -> bytes:
    """A sort key: another order for each seed, the same for one row whatever stands beside it."""
    return hashlib.blake2b(f"{seed}:{row_id}".encode(), digest_size=16).digest()
