"""The model card: what the adapter is, how to use it, what it was made of and what it bought."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qwenft_assets.config import ContentName
from qwenft_assets.publishing.data_table import attribution, data_table, hub_datasets
from qwenft_assets.publishing.subject import COMMIT, Subject
from qwenft_assets.text.chatml import INPUT_HEADING, SYSTEM_PROMPT

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
"""How the Hub draws the line from the base model."""
LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
TASK = "text-generation"


def render_model_card(subject: Subject, content: ContentName) -> "ModelCard":
    """The card of an adapter, or of a model made with it; names private rows only by number."""
    from huggingface_hub import ModelCard, ModelCardData

    settings = subject.config.publishing
    data = ModelCardData(
        base_model=subject.base_model,
        base_model_relation=RELATION[content],
        library_name=LIBRARY[content],
        license=settings.license,
        datasets=_datasets(subject) or None,
        language=list(settings.languages),
        tags=["lora", "sft", "qwenft"],
        pipeline_tag=TASK,
        model_name=model_name(subject),
        eval_results=_eval_results(subject),
    )
    sections = (
        _introduction(subject, content),
        "## Use\n\n" + _usage(subject, content),
        "## Evaluation\n\n" + _figures(subject),
        "## Data\n\n" + data_table(subject) + "\n\n" + attribution(subject),
        "## Training\n\n" + _recipe(subject),
        "## Limits\n\n" + _limits(subject, content),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def model_name(subject: Subject) -> str:
    """The repository's name where there is one, else base and recipe."""
    repo = subject.config.publishing.hub_repo or f"{subject.base_model}-{subject.recipe}-lora"
    return repo.split("/")[-1]


def _datasets(subject: Subject) -> list[str]:
    own = subject.config.publishing.hub_dataset_repo
    return sorted({*hub_datasets(subject).values(), *([own] if own else [])})


def _eval_results(subject: Subject) -> list["EvalResult"]:
    from huggingface_hub import EvalResult

    def result(dataset: str, name: str, revision: str | None, figures: dict[str, Any]) -> Any:
        return EvalResult(
            task_type=TASK,
            dataset_type=dataset,
            dataset_name=name,
            dataset_revision=revision,
            dataset_split="eval",
            metric_type="perplexity",
            metric_name="perplexity per token",
            metric_value=round(figures["perplexity"], 4),
        )

    evaluation = subject.evaluation
    own = subject.config.publishing.hub_dataset_repo or "mixed_dataset"
    name = f"held-out rows of mixture {subject.mixture_version}"
    results = [result(own, name, None, evaluation)]
    revisions = {share.source: share.revision for share in subject.shares}
    datasets = hub_datasets(subject)
    for source, figures in evaluation["per_source"].items():
        if source in datasets:
            revision = revisions.get(source, "")
            commit = revision if COMMIT.fullmatch(revision) else None
            results.append(result(datasets[source], f"{source}, held-out rows", commit, figures))
    return results


def _introduction(subject: Subject, content: ContentName) -> str:
    what = {
        "adapter": "A LoRA adapter of",
        "merged": "16-bit weights with a LoRA adapter merged into",
        "gguf": "A GGUF file, made from a LoRA adapter merged into the 16-bit weights of",
    }[content]
    base = f"[{subject.base_model}](https://huggingface.co/{subject.base_model})"
    return (
        f"# {model_name(subject)}\n\n{what} {base} ({_pinned(subject)}): version "
        f"`{subject.version}`, trained on mixture `{subject.mixture_version}`. `manifest.json` "
        "lists every file with its sha256; `qwenft verify <folder>` checks a copy against it."
    )


def _pinned(subject: Subject) -> str:
    """The base's commit on the Hub, or the beginning of the hash of the files it was read from."""
    if subject.base_commit:
        return f"revision `{subject.base_commit}`"
    kind, _, digest = subject.base_revision.partition(":")
    return f"as read from files with {kind} `{digest[:12]}`"


def _usage(subject: Subject, content: ContentName) -> str:
    where = subject.config.publishing.hub_repo or "path/to/this/folder"
    if content == "gguf":
        return "```bash\nollama create qwenft -f Modelfile\nollama run qwenft\n```"
    auto = "AutoPeftModelForCausalLM" if content == "adapter" else "AutoModelForCausalLM"
    library = "peft" if content == "adapter" else "transformers"
    dtype = "bfloat16" if content == "adapter" else "auto"
    return f"""```python
import {library}, transformers
model = {library}.{auto}.from_pretrained("{where}", dtype="{dtype}")
tokenizer = transformers.AutoTokenizer.from_pretrained("{where}")
prompt = tokenizer.apply_chat_template([{{"role": "user", "content": "What does an LDO do?"}}], add_generation_prompt=True, return_dict=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=200)[0], skip_special_tokens=True))
```

Where no system prompt is given, the chat template puts in the one of training:

> {SYSTEM_PROMPT}

Text to answer from goes below the question, after an empty line and the line `{INPUT_HEADING}`."""


def _figures(subject: Subject) -> str:
    evaluation = subject.evaluation
    lines = [
        f"Loss in nats per token on {evaluation['eval_rows']} held-out rows "
        f"({evaluation['eval_tokens']} tokens), base against adapter on the same rows; perplexity "
        "is its exponential. The interval is a paired bootstrap over rows, 95 %. Measured with the "
        f"adapter in fp32 on {_format_weights(subject)} base weights.",
        "",
        "| source | rows | perplexity, base | perplexity, adapter | loss difference | interval |",
        "|---|---:|---:|---:|---:|---|",
    ]
    rows: Sequence[tuple[str, Any]] = [*evaluation["per_source"].items(), ("all", evaluation)]
    for source, own in rows:
        low, high = own["delta_loss_ci95"]
        lines.append(
            f"| {source} | {own['eval_rows']} | {own['base_perplexity']:.2f} | "
            f"{own['perplexity']:.2f} | {own['delta_loss']:+.4f} | {low:+.4f} to {high:+.4f} |"
        )
    if not subject.released:
        lines += ["", "This version is not the released one."]
    return "\n".join(lines)


def _format_weights(subject: Subject) -> str:
    weights = str(subject.record["settings"]["weights"])
    return "4-bit (NF4)" if weights == "nf4" else weights


def _recipe(subject: Subject) -> str:
    record, settings = subject.record, subject.record["settings"]
    lora = settings["lora"]
    packed = settings["batching"] == "packed"
    sequences = f"{settings['step_sequences']} {'packs of rows' if packed else 'rows'}"
    facts = {
        "base weights in training": _format_weights(subject),
        "LoRA": f"r {lora['rank']}, alpha {lora['alpha']}, dropout {lora['dropout']:g}",
        "modules": ", ".join(lora["target_modules"]),
        "epochs; optimizer steps": f"{settings['epochs']:g}; {record['steps']}",
        "in one optimizer step": sequences,
        "learning rate": f"{settings['peak_learning_rate']:g} at its peak, {settings['lr_schedule']}",
        "optimizer": settings["optimizer"],
        "longest text": f"{settings['max_length_tokens']} tokens",
        "loss on": {"full": "the whole text", "answer": "the answer"}[settings["supervise"]],
        "seed": settings["seed"],
        "device": record["device"],
        "versions": ", ".join(f"{name} {v}" for name, v in record["versions"].items()),
    }
    lines = ["| setting | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join([*lines, "", "![Loss by step](loss.png)"])


def _limits(subject: Subject, content: ContentName) -> str:
    limits = [
        "The figures say how well held-out rows of the same sources are predicted. They say "
        "nothing about truth: answers can be wrong, and none is medical or engineering advice.",
        "Low perplexity on rows like those trained on does not carry over to other questions.",
    ]
    private = sum(s.train_rows for s in subject.shares if s.private)
    if private:
        limits.append(
            f"{private} of the train rows are private. They are not published, but a model can "
            "repeat what it was trained on."
        )
    if content == "adapter" and subject.config.publishing.weights == "bf16":
        limits.append("The weights are rounded to bf16; the figures were measured before that.")
    if content != "adapter":
        limits.append("The figures are those of the adapter on its base, before merging.")
    return "\n".join(f"- {limit}" for limit in limits)
