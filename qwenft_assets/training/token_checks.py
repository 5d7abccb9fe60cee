"""What must be true of the tokens before a GPU hour is spent on them, and one row to look at."""

from typing import Any

from qwenft_assets.errors import TrainingError
from qwenft_assets.model.tokens import NOT_SUPERVISED, TokenRow, TokenRows
from qwenft_assets.rows import InstructionRow
from qwenft_assets.text.chatml import TURN_END, render_training_text

SHOWN_CHARACTERS = 1_200


def check_tokens(
    tokenizer: Any, first: InstructionRow, rows: TokenRows, system_prompt: str, supervise: str
) -> None:
    """Refuse tokens that would train a model which does not stop, or is asked in another way.

    Args:
        tokenizer: The one that inference will use, a `PreTrainedTokenizerFast`.
        first: The mixture's first row.
        rows: All rows of the mixture.
        system_prompt: The config's.
        supervise: The config's.

    Raises:
        TrainingError: The end of the turn is no token of its own, stands in for padding or carries
            no loss; or inference would split the first row's text into other tokens.
    """
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    if turn_end is None or turn_end == tokenizer.unk_token_id:
        raise TrainingError(
            f"the base model's tokenizer has no token {TURN_END}: answers would never end. Choose a "
            "base model with the ChatML template, as Qwen2.5-Instruct."
        )
    if tokenizer.pad_token_id == turn_end:
        raise TrainingError(
            f"the base model's tokenizer pads with {TURN_END}: padding would teach when to stop. "
            "Choose a base model whose padding token is another."
        )
    row = rows[0]
    system = first.system if system_prompt == "row" else None
    text = render_training_text(first.instruction, first.input, first.output, system)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"][: len(row.input_ids)]
    if row.input_ids != expected:
        raise TrainingError(
            "the tokens of the mixture are not those that inference would make of the same text. "
            "Remove the folder cache/tokens of the storage root, then run the same command again."
        )
    if not row.truncated and turn_end not in row.labels(supervise)[1:]:
        raise TrainingError(
            f"{TURN_END} carries no loss: answers would never end. This is a bug: report it."
        )


def shown_with_mask(tokenizer: Any, row: TokenRow, supervise: str) -> str:
    """The row as text; what carries loss stands between « and »."""
    labels = row.labels(supervise)
    # The first token of a text is predicted by nothing.
    start = next(
        (n for n, label in enumerate(labels) if n and label != NOT_SUPERVISED), len(labels)
    )
    plain, learnt = (
        tokenizer.decode(part) for part in (row.input_ids[:start], row.input_ids[start:])
    )
    if len(plain) + len(learnt) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        plain, learnt = _shortened(plain, half), _shortened(learnt, half)
    return f"{plain}«{learnt}»"


def _shortened(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    return f"{text[: characters // 2]} … {text[-characters // 2 :]}"
