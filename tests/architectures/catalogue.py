"""All configurations by the name of the module of mlx-lm that reads them."""

import importlib.util
import json
import pkgutil
from pathlib import Path
from typing import Any

from tests.architectures import dense, experts, latent, recurrent, windows, wrapped
from tests.architectures.sizes import plain
from tests.models import write_checkpoint, write_tokenizer

CONFIGS: dict[str, dict[str, Any]] = (
    dense.CONFIGS | experts.CONFIGS | latent.CONFIGS | windows.CONFIGS | recurrent.CONFIGS | wrapped.CONFIGS
)


def modules() -> list[str]:
    """Every module of mlx-lm that defines a model; found in the source, since importing one may end the process."""
    spec = importlib.util.find_spec("mlx_lm.models")
    assert spec is not None and spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    names = (found.name for found in pkgutil.iter_modules([str(folder)]))
    return [name for name in names if "class ModelArgs" in (folder / f"{name}.py").read_text()]


def config(module: str) -> dict[str, Any]:
    """A complete config.json; a `text_config` inside is completed in the same way."""
    own = CONFIGS[module]
    made = plain(module) | own
    if "text_config" in own:
        inner = own["text_config"]
        made["text_config"] = plain(inner.get("model_type", module)) | inner
    return made


# Importing it ends the process where a library of its own is not installed, so its weights cannot be made from it.
ENDS_THE_PROCESS = "olmo"


def write(folder: Path, module: str, *, dtype: str = "float32") -> Path:
    """Write a model directory of this architecture and return it."""
    made = config(module)
    if module == ENDS_THE_PROCESS:
        write_checkpoint(folder, config("llama"), seed=1, dtype=dtype)
        (folder / "config.json").write_text(json.dumps(made))
    else:
        write_checkpoint(folder, made, seed=1, dtype=dtype)
    write_tokenizer(folder, made["vocab_size"])
    return folder
