"""A model's tokenizer files, through everything that a load makes of them, and a text through that."""

import json
import tempfile
from pathlib import Path
from typing import Any

from backend.core.errors import InvalidRequest, ModelLoadFailed
from backend.core.panics import is_panic
from backend.engine.loading.failures import FOREIGN
from backend.engine.loading.tokenizer import load_tokenizer
from backend.grammar.vocabulary import read_vocabulary
from backend.output import OutputFormat, TokenTable
from backend.prompt.preparer import PromptPreparer
from tests.fuzz.structures import change_json
from tests.fuzz.target import Target
from tests.fuzz.targets.model_texts import SETTINGS, TOKENIZERS, WORDS

VOCAB = 160
_TEXT = "hello ab \u00e9\U0001f30d a\u2581 <|im_end|><think>\n12 "


def tokenizers() -> Target:
    """A JSON object of tokenizer.json and tokenizer_config.json."""
    folder = tempfile.TemporaryDirectory()
    seeds = [json.dumps([tokenizer, SETTINGS]).encode() for tokenizer in TOKENIZERS]
    return Target(
        run=lambda data: _load(Path(folder.name), data),
        seeds=seeds,
        change=lambda rng, data, words: change_json(rng, data, [*words, *WORDS]),
        refusals=(ModelLoadFailed, InvalidRequest),
        seconds=20.0,
        memory=512 << 20,
        close=folder.cleanup,
    )


def _load(folder: Path, data: bytes) -> None:
    try:
        tokenizer_json, settings = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        tokenizer_json, settings = data.decode("utf-8", "replace"), SETTINGS
    for name, content in (("tokenizer.json", tokenizer_json), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content))
    use(load_tokenizer(folder, settings={"eos_token_id": 1}))


def use(tokenizer: Any) -> None:
    """What a load makes of a tokenizer, and a request of that.

    Raises:
        ModelLoadFailed: As the load has it: whatever foreign code raises is one.
        InvalidRequest: The text cannot be encoded.
    """
    try:
        output = OutputFormat.choose(tokenizer)
        prompts = PromptPreparer(tokenizer)
        table = TokenTable.from_tokenizer(tokenizer, markers=output.markers)
        read_vocabulary(tokenizer, label_of=table.label_of, size=VOCAB, eos_ids=[1])
        prompts.encode(output.reasoning_start, add_special_tokens=False)
    except BaseException as error:
        # As `build_preparer` does; what a panic means elsewhere is seen below and in the target `loads`.
        if not isinstance(error, FOREIGN) and not is_panic(error):
            raise
        raise ModelLoadFailed(str(error)) from error
    try:
        ids = prompts.encode(_TEXT, add_special_tokens=True)
        decoder = table.decoder()
        for token in [*ids.tolist(), *range(0, VOCAB, 7)]:
            decoder.push(token).encode()
        decoder.finish().encode()
    except InvalidRequest:
        raise
    # Of a tokenizer that loads and does not work: its request ends, and no other.
    except FOREIGN:
        return
