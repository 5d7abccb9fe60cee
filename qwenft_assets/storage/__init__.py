"""Where artifacts live: paths, atomic writes, hashes, locks, and the stage of a remote root."""
