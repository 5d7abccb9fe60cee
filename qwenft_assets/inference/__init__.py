"""Base and adapter in memory, tokens out of them; prints nothing."""
