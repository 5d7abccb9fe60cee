"""The prompt: one rendering for training, evaluation, inference and chat.

ChatML as Qwen2.5 and SmolLM2 were tuned on. Training on one layout and asking in another is the
commonest cause of an adapter that looks good on paper and answers badly.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

SYSTEM_PROMPT: Final = (
    "You are a cross-domain expert in artificial intelligence, integrated circuits and "
    "biomedicine. Answer accurately and concisely."
)
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
END_OF_TEXT: Final = "<|endoftext|>"
INPUT_HEADING: Final = "Supplementary information:"
TEMPLATE_VERSION: Final = "1"
"""Raise with any change of the rendered text: adapters and token caches depend on it."""

CHAT_TEMPLATE: Final = (
    "{% if messages[0]['role'] != 'system' %}"
    f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The same layout for tools that ask the tokenizer; saved with every adapter."""


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`user` or `assistant`."""
    content: str


def render_prompt(instruction: str, input: str, system: str | None = None) -> str:  # noqa: A002
    """The text up to where the model's answer begins.

    Args:
        instruction: What is asked.
        input: Supplementary information; empty for none.
        system: System prompt; None for the fixed one.
    """
    return render_conversation([Turn("user", user_text(instruction, input))], system)


def render_training_text(
    instruction: str,
    input: str,  # noqa: A002
    output: str,
    system: str | None = None,
) -> str:
    """The prompt followed by its answer, as the model sees it in training and evaluation."""
    return f"{render_prompt(instruction, input, system)}{without_control(output)}{TURN_END}\n"


def render_conversation(turns: Sequence[Turn], system: str | None = None) -> str:
    """Several turns, then the opening of the assistant's next one."""
    system_text = SYSTEM_PROMPT if system is None else system
    parts = [Turn("system", system_text), *turns]
    rendered = "".join(
        f"{TURN_START}{role}\n{without_control(content)}{TURN_END}\n" for role, content in parts
    )
    return f"{rendered}{TURN_START}assistant\n"


def user_text(instruction: str, input: str) -> str:  # noqa: A002
    """The user's turn: the instruction, with the input as a section of its own."""
    return f"{instruction}\n\n{INPUT_HEADING}\n{input}" if input else instruction


def without_control(text: str) -> str:
    """The text with spaces in every ChatML token: data must not be able to open or close a turn."""
    for token in (TURN_START, TURN_END, END_OF_TEXT):
        text = text.replace(token, f"<| {token[2:-2]} |>")
    return text
