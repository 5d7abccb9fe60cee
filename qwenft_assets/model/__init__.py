"""What training, evaluation and inference share: the base model, LoRA, tokens, loss and memory."""
