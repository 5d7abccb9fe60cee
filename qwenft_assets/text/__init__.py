"""Pure functions on text: no files, no network, no state."""
