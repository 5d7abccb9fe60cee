"""GGUF by llama.cpp's own converter, and an Ollama Modelfile with this project's prompt layout."""

import json
import subprocess
import sys
from pathlib import Path

from qwenft_assets.config import PROJECT_ROOT, DecodingConfig
from qwenft_assets.errors import PublishingError
from qwenft_assets.progress import ReportProgress
from qwenft_assets.publishing.subject import Subject
from qwenft_assets.storage.files import atomic_folder, read_json, write_json
from qwenft_assets.text.chatml import END_OF_TEXT, SYSTEM_PROMPT, TURN_END, TURN_START

CONVERTER = "convert_hf_to_gguf.py"
GGUF_FILE = "model.gguf"
MODELFILE = "Modelfile"
COMPARISON_FILE = "gguf_comparison.json"
MAX_KL_NATS = 0.02
"""Between the merged model and the GGUF file read back, mean over positions of the fixed prompts."""


def find_converter(llama_cpp: str | None) -> Path:
    """llama.cpp's converter.

    Raises:
        PublishingError: The setting names none.
    """
    if llama_cpp is None:
        raise PublishingError(
            "publishing.llama_cpp is not set: GGUF files are made by llama.cpp's own converter. Set "
            f"it to a checkout of llama.cpp, which holds {CONVERTER}."
        )
    converter = PROJECT_ROOT / Path(llama_cpp).expanduser() / CONVERTER
    if not converter.is_file():
        raise PublishingError(
            f"publishing.llama_cpp: {converter} is not there. Set it to a checkout of llama.cpp."
        )
    return converter


def gguf_weights(subject: Subject, merged: Path, report_progress: ReportProgress) -> Path:
    """A folder with the GGUF file and its Modelfile; made once for each merged model.

    Raises:
        PublishingError: The converter failed, or its file does not answer as the merged model.
    """
    converter = find_converter(subject.config.publishing.llama_cpp)
    folder = merged.with_name(f"{merged.name}-gguf")
    if read_json(folder / COMPARISON_FILE) is not None:
        return folder
    with atomic_folder(folder) as part:
        report_progress(0, 2, f"running {CONVERTER}")
        outcome = subprocess.run(  # noqa: S603  (the program that the setting names)
            [
                sys.executable, str(converter), str(merged),
                "--outfile", str(part / GGUF_FILE), "--outtype", "bf16",
                "--model-name", subject.name,
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if outcome.returncode != 0 or not (part / GGUF_FILE).is_file():
            last = (outcome.stderr.strip().splitlines() or ["no message"])[-1]
            raise PublishingError(
                f"{converter}: ended with {outcome.returncode}: {last[:300]}. Its own requirements "
                "may be missing: see requirements/ in llama.cpp."
            )
        report_progress(1, 2, "comparing with the merged model")
        write_json(part / COMPARISON_FILE, compare(part / GGUF_FILE, merged))
        (part / MODELFILE).write_text(
            render_modelfile(subject.config.decoding), encoding="utf-8", newline="\n"
        )
    report_progress(2, 2)
    return folder


def compare(gguf_file: Path, merged: Path) -> dict[str, float | int]:
    """Read a GGUF file back and hold its answers against the merged model's.

    Raises:
        PublishingError: They differ by more than rounding.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from qwenft_assets.model.engines.peft import load_base, load_tokenizer
    from qwenft_assets.publishing.merge import PROMPTS, behaviour, mean_kl_nats

    tokenizer = load_tokenizer(merged)
    reference = behaviour(load_base(merged, "fp32", "cpu").eval(), tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    read_back = behaviour(model.eval(), tokenizer)
    kl_nats = mean_kl_nats(reference, read_back)
    if kl_nats > MAX_KL_NATS:
        raise PublishingError(
            f"{gguf_file.name}: answers differ from the merged model's by {kl_nats:.4f} nats of KL "
            f"divergence a token, {MAX_KL_NATS} at most. Use another version of llama.cpp."
        )
    same = sum(a == b for a, b in zip(reference.answers, read_back.answers, strict=True))
    return {"prompts": len(PROMPTS), "mean_kl_nats": kl_nats, "same_greedy_answers": same}


def render_modelfile(decoding: DecodingConfig) -> str:
    """An Ollama Modelfile whose template is the layout of text/chatml.py.

    Ollama gives the template the system prompt as the first of its messages.
    https://docs.ollama.com/modelfile, https://github.com/ollama/ollama/blob/main/docs/template.md
    """
    template = (
        "{{- range .Messages }}"
        f"{TURN_START}{{{{ .Role }}}}\n{{{{ .Content }}}}{TURN_END}\n"
        "{{ end }}"
        f"{TURN_START}assistant\n"
    )
    parameters = {
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "repeat_penalty": decoding.repetition_penalty,
        "num_predict": decoding.max_new_tokens,
    }
    lines = [f"FROM ./{GGUF_FILE}", f'TEMPLATE """{template}"""', f'SYSTEM """{SYSTEM_PROMPT}"""']
    lines += [f"PARAMETER {name} {value:g}" for name, value in parameters.items()]
    lines += [f"PARAMETER stop {json.dumps(token)}" for token in (TURN_END, END_OF_TEXT)]
    return "\n".join(lines) + "\n"
