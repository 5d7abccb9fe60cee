"""Where artifacts live: paths, atomic writes, hashes, locks, and object stores."""
