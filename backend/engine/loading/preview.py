"""What a load would make of a model's files: everything that can be known without reading the weights' values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model as load_checkpoint

from backend.config import ModelConfig
from backend.core.errors import InvalidRequest
from backend.core.request import Conversation, Message
from backend.engine.loading.context import served_context
from backend.engine.loading.dtype import main_dtype, preferred_dtype
from backend.engine.loading.failures import guarded
from backend.engine.loading.files import open_files
from backend.output import OutputFormat
from backend.prompt.preparer import PromptPreparer

_ONE_MESSAGE = Conversation(messages=(Message(role="user", content="Hello"),))
_HALF = (mx.float16, mx.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A model as it would be loaded.

    Attributes:
        file_bytes: Of the weights as they are in the files.
        weight_bytes: Of the weights as they would be held.
        dtype: Most of them are held in.
        has_template: Whether there is a chat template.
        template_error: Why it does not render one message; empty where it does.
        calls: The format of its tool calls; empty where none is known.
    """

    directory: Path
    architecture: str
    file_bytes: int
    weight_bytes: int
    dtype: str
    context: int
    has_template: bool
    template_error: str
    calls: str
    reasons: bool


def preview(config: ModelConfig) -> Preview:
    """The model that a load of these files would give. Makes its layers, and reads the weights' names and shapes.

    Raises:
        ModelLoadFailed: The load would be refused; one line that names the file or field.
    """
    files = open_files(config)
    directory = files.directory
    # Lazy: no array is evaluated, so none is read.
    model, settings = guarded(str(directory / "config.json"), lambda: load_checkpoint(directory, lazy=True))
    arrays = cast("list[mx.array]", [array for _, array in tree_flatten(model.parameters())])
    plain = sum(array.nbytes for array in arrays)
    wanted = config.dtype or preferred_dtype(arrays)
    half = sum(array.nbytes for array in arrays if array.dtype in _HALF)
    output = OutputFormat.choose(files.tokenizer)
    has_template = bool(getattr(files.tokenizer, "has_chat_template", False))
    return Preview(
        directory=directory,
        architecture=_architecture(settings),
        file_bytes=plain,
        weight_bytes=plain + half if wanted == "float32" else plain,
        dtype=wanted or main_dtype(arrays),
        context=served_context(settings, config.context),
        has_template=has_template,
        template_error=_template_error(config, files.tokenizer) if has_template else "",
        calls=output.format_type,
        reasons=bool(output.reasoning_start),
    )


def _template_error(config: ModelConfig, tokenizer: Any) -> str:
    prompts = PromptPreparer(
        tokenizer, template_kwargs=config.template_kwargs, strip_agent_header=config.cache.strip_agent_header
    )
    try:
        prompts.prepare(_ONE_MESSAGE)
    except InvalidRequest as error:
        return error.message
    finally:
        prompts.close()
    return ""


def _architecture(settings: Mapping[str, Any]) -> str:
    return str(settings.get("model_type", ""))
