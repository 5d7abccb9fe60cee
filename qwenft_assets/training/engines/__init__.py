"""What loads base weights and puts LoRA on them."""
