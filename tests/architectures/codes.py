"""Which architectures hold quantised keys and values: `python -m tests.architectures.codes` writes the page.

As the survey of models, with heads of 64 features instead of 16: groups of 32 and 64 divide those.
"""

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First: the BLAS must be chosen before MLX is loaded.
from backend.engine.loading.blas import load_blas

PAGE = Path(__file__).parents[2] / "docs" / "quantised-kv-models.md"
ROW = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
FORMATS = ((8, 64), (4, 32))
WIDER = 4
_WIDTHS = re.compile(
    r"hidden_size|hidden_dim|hidden_size_per_head|(.*_)?head_dim|n_embd|d_model|model_dim|dim|kv_lora_rank"
    r"|dim_model_base|query_pre_attn_scalar|rotary_dim|v_low_rank_dim|sparse_index_dim|block_dim|conv_dim|kv_channels"
)
_KEPT = re.compile(r"linear_|mamba_|ssm_")
# What does not follow from the widths.
_OWN: Mapping[str, Mapping[str, Any]] = {
    "phi": {"partial_rotary_factor": 0.5},
    "phimoe": {"rope_scaling": {"short_factor": [1.0] * 32, "long_factor": [1.5] * 32}},
    "minicpm3": {"rope_scaling": {"short_factor": [1.0] * 32, "long_factor": [1.5] * 32}},
}

_INTRODUCTION = """\
# Models with quantised keys and values

What each model module of mlx-lm 0.32.2 does with the load option `kv_bits` ([what it is](quantised-kv.md)).
`make models-table` writes this page too: it makes a small model of random weights for each, with heads of 64 features,
loads it with {formats} (bits/group), and with the last compares answers in a crowd whose rows join and leave, and
answers from the prompt cache, with those of the request alone and cold. The numbers are the largest difference of a
log-probability: 0 is bitwise. What differs is what differs without codes too: sliding windows in company, states that
decoding left behind from the cache ([why](architecture.md#why-answers-do-not-depend-on-company)).

{taking} of {count} take it. A refusal ends the load, with these words.

| module | {columns} | company | hits |
|---|{rules}|---|---|
"""


@dataclass(frozen=True, slots=True)
class Codes:
    """What a module's small model does with one format.

    Attributes:
        refusal: Why it does not load so; nothing else is known then.
        serial: Its rows are served one at a time, as they are without codes.
        company: Largest difference between answers in a crowd and alone; None where they were not compared.
        hits: The same between answers from the prompt cache and cold ones; None where nothing was found there.
    """

    refusal: str = ""
    serial: bool = False
    company: float | None = None
    hits: float | None = None

    def __str__(self) -> str:
        if self.refusal:
            return f"refused: {self.refusal}"
        served = "one at a time" if self.serial else "batched"
        if self.company is None:
            return served
        return f"{served} | {self.company:.0e} | {'no hits' if self.hits is None else f'{self.hits:.0e}'}"


def wide(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with heads four times as wide, and those parts of 8 features eight times."""
    made: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            made[name] = wide(value)
        elif type(value) is int and _WIDTHS.fullmatch(name) and not _KEPT.match(name):
            made[name] = value * (2 * WIDER if name == "qk_rope_head_dim" else WIDER)
        else:
            made[name] = value
    return made


def rows_of(page: str) -> list[str]:
    """The modules that have a row."""
    return ROW.findall(page)


def codes(module: str) -> list[Codes]:
    """What the module's small model does with each format."""
    from tests.architectures import catalogue
    from tests.models import write_checkpoint, write_tokenizer

    config = wide(catalogue.config(module))
    for name, value in _OWN.get(module, {}).items():
        config[name] = config[name] | value if isinstance(value, Mapping) else value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / module
        if module == catalogue.ENDS_THE_PROCESS:
            return [Codes(refusal="not installed here") for _ in FORMATS]
        write_checkpoint(path, config, seed=1)
        write_tokenizer(
            path, config["vocab_size"] if "vocab_size" in config else catalogue.config("llama")["vocab_size"]
        )
        return [_try(path, bits, group) for bits, group in FORMATS]


def _try(path: Path, bits: int, group: int) -> Codes:
    """Whether it loads, and with the last format what it answers."""
    from backend.config import CacheConfig, EngineConfig
    from backend.core.errors import WorkerError
    from tests.architectures.survey import CHUNK, LENGTHS, _cold, _text, _warm
    from tests.engine.harness import model_config, with_engine

    prompts = [_text(length, seed) for seed, length in enumerate(LENGTHS)]
    options = EngineConfig(prefill_chunk=CHUNK, max_rows=5, kv_bits=bits, kv_group_size=group)
    answers = (bits, group) == FORMATS[-1]

    async def cold(engine):
        if not answers:
            return engine.info(), [], [], []
        return (*await _cold(engine, prompts), await _warm(engine))

    try:
        info, alone, crowd, unaided = with_engine(model_config(path, engine=options), cold)
    except WorkerError as error:
        name = f"{path.name} cannot hold quantised keys and values: "
        return Codes(refusal=error.message.removeprefix(f"{path}: ").removeprefix("kv_bits: ").removeprefix(name))
    if not answers:
        return Codes(serial=info.mode == "serial", company=None)
    warm = with_engine(model_config(path, engine=options, cache=CacheConfig(max_bytes=1 << 28)), _warm)
    found = sum(answer.end.usage.cached_tokens for _, answer in warm if answer.end is not None)
    hits = max(_apart(ours, theirs) for (_, ours), (_, theirs) in zip(warm, unaided, strict=True))
    company = max(_apart(*pair) for pair in zip(crowd, alone, strict=True))
    return Codes(serial=info.mode == "serial", company=company, hits=hits if found else None)


def _apart(ours, theirs) -> float:
    if ours.error is not None or theirs.error is not None or ours.tokens != theirs.tokens:
        return float("inf")
    pairs = zip(ours.logprobs, theirs.logprobs, strict=True)
    return max((abs(a.logprob - b.logprob) for a, b in pairs), default=0.0)


def main(only: Sequence[str]) -> None:
    """Survey and write the page; with names, survey these and write nothing."""
    load_blas("reference")
    from tests.architectures import catalogue

    found = {}
    for module in only or catalogue.modules():
        found[module] = codes(module)
        sys.stderr.write(f"{module}: {' | '.join(map(str, found[module]))}\n")
    if not only:
        PAGE.write_text(_page(found))


def _page(found: Mapping[str, Sequence[Codes]]) -> str:
    formats = [f"{bits}/{group}" for bits, group in FORMATS]
    head = _INTRODUCTION.format(
        formats=" and ".join(formats),
        taking=sum(any(not one.refusal for one in each) for each in found.values()),
        count=len(found),
        columns=" | ".join(formats),
        rules="|".join("---" for _ in formats),
    )
    return head + "".join(_row(module, found[module]) for module in sorted(found, key=str.lower))


def _row(module: str, each: Sequence[Codes]) -> str:
    rest = " | |" if each[-1].refusal else ""
    return f"| `{module}` | {' | '.join(map(str, each))} |{rest}\n"


if __name__ == "__main__":
    main(sys.argv[1:])
