"""qwenft: several text sources in, a measured LoRA adapter out, released only if it is better."""
