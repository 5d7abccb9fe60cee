"""A mixture to a LoRA adapter: base model, tokens, engine, trainer, and the worker that runs them."""
