"""From a figure to a decision: the gate, and the registry of champions."""
