"""A random Qwen2 of 100,000 parameters with a tokenizer of its own: real code paths, no download."""

import json
from pathlib import Path

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets.text.chatml import CHAT_TEMPLATE, END_OF_TEXT, TURN_END, TURN_START

VOCABULARY = 600


def write_tiny_model(folder: Path, seed: int = 0) -> None:
    """Write config, safetensors (fp32) and tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    reports = json.loads((PROJECT_ROOT / "data" / "my_dataset.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([report["output"] for report in reports], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=END_OF_TEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        eos_token_id=fast.get_vocab()[TURN_END],
        pad_token_id=fast.get_vocab()[END_OF_TEXT],
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
