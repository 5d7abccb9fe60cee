"""The OpenAI-compatible server of transformers, around one model that is loaded already.

`transformers serve` reads models by name from the Hub's cache. Here it gets ours: the same object that
`infer` and `chat` ask, adapter and all, with our decoding defaults. Around it stands what it lacks:
an API key, 404 for a model it does not serve, 400 with a reason for a request it cannot answer.
"""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from qwenft_assets.config import DecodingConfig
from qwenft_assets.errors import PromptError
from qwenft_assets.inference.conversation import changed_decoding
from qwenft_assets.inference.generate import AnsweringModel, generation_options
from qwenft_assets.text.chatml import Turn, render_conversation, without_control

OPEN_PATHS = {"/health"}
SERVED_PATHS = {*OPEN_PATHS, "/v1/models", "/v1/chat/completions"}
ROLES = {"system", "user", "assistant"}
DECODING_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
}
"""A request's fields and the settings they change; the other settings stay as in the config."""


def make_app(
    model: AnsweringModel, name: str, decoding: DecodingConfig, api_key: str | None
) -> Any:
    """A FastAPI application with /v1/models, /v1/chat/completions and /health.

    Args:
        model: What answers, one request after the other.
        name: Under which clients ask for it.
        decoding: Defaults of a request.
        api_key: Asked for as a bearer token; None: everybody may ask.
    """
    from transformers.cli.serving.completion import CompletionHandler
    from transformers.cli.serving.response import ResponseHandler
    from transformers.cli.serving.server import build_server
    from transformers.cli.serving.transcription import TranscriptionHandler
    from transformers.cli.serving.utils import GenerationState

    manager, state = _one_model(model, name), GenerationState()
    app = build_server(
        manager,
        _chat_handler(model, name, decoding)(manager, state),
        # Built because they must be; SERVED_PATHS leaves them out.
        completion_handler=CompletionHandler(manager, state),
        response_handler=ResponseHandler(manager, state),
        transcription_handler=TranscriptionHandler(manager, state),
        generation_state=state,
    )
    _guard(app, api_key)
    return app


def _one_model(model: AnsweringModel, name: str) -> Any:
    """A model manager that knows our model and no other."""
    from transformers.cli.serving.model_manager import ModelManager

    language_model = getattr(model.decoder.model, "get_base_model", lambda: model.decoder.model)()

    class OneModel(ModelManager):
        def load_model_and_processor(self, *_: Any, **__: Any) -> Any:
            return language_model, model.tokenizer

        def get_gen_models(self, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
            return [{"id": name, "object": "model", "created": 0, "owned_by": "qwenft"}]

        def shutdown(self) -> None:
            """The process ends with its model."""

    return OneModel()


def _chat_handler(model: AnsweringModel, name: str, decoding: DecodingConfig) -> Any:
    """A handler that refuses what it cannot answer, and renders text as training did."""
    from fastapi import HTTPException
    from transformers import GenerationConfig
    from transformers.cli.serving.chat_completion import ChatCompletionHandler
    from transformers.cli.serving.utils import set_torch_seed

    class Handler(ChatCompletionHandler):
        async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
            if body.get("model") != name:
                raise HTTPException(404, f"no model {body.get('model')!r} here. There is: {name}.")
            try:
                turns = read_messages(body.get("messages"))
                # Draws nothing; refuses a setting that cannot be, and a prompt that is too long.
                model.answer(_render(turns), decoding_of(body, decoding))
            except PromptError as error:
                raise HTTPException(400, str(error)) from error
            # Text that quotes ChatML, as infer and chat write it.
            messages = [
                {"role": role, "content": without_control(content)} for role, content in turns
            ]
            return await super().handle_request({**body, "messages": messages}, request_id)

        def _build_generation_config(self, body: dict[str, Any], *_: Any, **__: Any) -> Any:
            settings = decoding_of(body, decoding)
            if settings.seed is not None:
                set_torch_seed(settings.seed)
            return GenerationConfig(**generation_options(model.tokenizer, settings))

    return Handler


def _guard(app: Any, api_key: str | None) -> None:
    """Ask for the key, hide what is not served, and write errors as OpenAI's clients read them."""
    from fastapi import HTTPException, Request
    from fastapi.responses import JSONResponse

    def refuse(status: int, message: str, code: str) -> JSONResponse:
        error = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
        return JSONResponse({"error": error}, status_code=status)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if error.status_code == 404 else "invalid_request"  # noqa: PLR2004
        return refuse(error.status_code, str(error.detail), code)

    @app.middleware("http")
    async def admit(request: Request, go_on: Callable[[Request], Awaitable[Any]]) -> Any:
        path = request.url.path
        if path not in SERVED_PATHS:
            served = ", ".join(sorted(SERVED_PATHS))
            return refuse(404, f"{path}: not served here. There is: {served}.", "not_found")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if (
            api_key is not None
            and path not in OPEN_PATHS
            and not hmac.compare_digest(given.encode(), api_key.encode())
        ):
            return refuse(401, "wrong or missing API key.", "invalid_api_key")
        return await go_on(request)


def read_messages(messages: Any) -> list[Turn]:
    """A request's messages as turns.

    Raises:
        PromptError: They are not a list of messages with a known role and text.
    """
    if not isinstance(messages, list) or not messages:
        raise PromptError(
            'messages: a list of at least one is needed. Send [{"role": "user", "content": "..."}].'
        )
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES or (role == "system" and number):
            raise PromptError(
                f"messages[{number}]: role {role!r}. Use system (first only), user and assistant."
            )
        turns.append(Turn(role, _text_of(message.get("content"), number)))
    return turns


def _text_of(content: Any, number: int) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts: list[str] = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise PromptError(
                f"messages[{number}]: content must be text. Send a string, or parts of type text."
            )
        texts.append(text)
    return " ".join(texts)  # as transformers joins the parts of a message


def decoding_of(body: dict[str, Any], decoding: DecodingConfig) -> DecodingConfig:
    """The settings for one request.

    Raises:
        PromptError: A field has a value that its setting cannot have.
    """
    changes = {
        setting: body[field]
        for field, setting in DECODING_FIELDS.items()
        if body.get(field) is not None
    }
    return changed_decoding(decoding, changes)


def _render(turns: list[Turn]) -> str:
    if turns[0].role == "system":
        return render_conversation(turns[1:], turns[0].content)
    return render_conversation(turns)
