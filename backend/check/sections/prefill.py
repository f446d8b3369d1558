"""Prefill by the size of its chunks, with and without giving freed buffers back, and the engine's own."""

from functools import partial
from statistics import median

import mlx.core as mx
from mlx_lm.generate import stream_generate

from backend.check.asking import ask_all, request
from backend.check.driving import evaluate, random_tokens, seconds_of
from backend.check.section import Section
from backend.engine.batching.session import Session

MARK = 0.9
_CHUNKS = (256, 512, 1024, 2048, 4096)
_ROUNDS = 3
# Seconds of one pass at most, and what one of twice the tokens may take over one: attention is quadratic.
_MOST_PASS_S, _GROWTH = 20.0, 3.0
# Passes over the prompt that one round makes, and some for kernels that are used the first time.
_PASSES = 2 * (2 * len(_CHUNKS) + 2) + 4


async def run(section: Section) -> None:
    """Measure every way in rounds; the first warms everything up and is not counted."""
    subject = section.subject
    tokens = await _tokens(section)
    ways = [(chunk, clear) for chunk in _CHUNKS if chunk <= tokens for clear in (False, True)]
    direct: dict[tuple[int, bool], list[float]] = {way: [] for way in ways}
    engine: list[float] = []
    theirs: list[float] = []
    for round_ in section.allowance.rounds(2, _ROUNDS + 1):
        if round_ == 1:
            for rates in (*direct.values(), engine, theirs):
                rates.clear()
        for chunk, clear in ways:
            one = partial(_direct, tokens=tokens, chunk=chunk, clear=clear, seed=round_)
            direct[chunk, clear].append(tokens / await subject.on_engine(one))
        engine.append(await _engine(section, tokens, round_))
        theirs.append(await subject.on_engine(partial(_mlx_lm, tokens=tokens, seed=round_)))
        section.say(f"round {round_} of at most {_ROUNDS}, {tokens} tokens")
    for (chunk, clear), rates in direct.items():
        name = f"chunk {chunk}, {'cleared after each' if clear else 'not cleared'}"
        section.figure(name, median(rates), "tok/s", rounds=rates)
    for chunk in _CHUNKS:
        if chunk > tokens:
            section.skip(f"chunk {chunk}", f"{tokens} tokens are what time and memory allow here")
    best = max(median(rates) for rates in direct.values())
    chunk = await subject.on_engine(lambda session: session.prefills.chunk)
    section.figure("engine", median(engine), "tok/s", f"chunks of {chunk}", rounds=engine)
    _ratio(section, "engine over the best chunk", median(engine), best)
    _ratio(section, "engine over mlx-lm's stream_generate", median(engine), median(theirs))


def _ratio(section: Section, name: str, ours: float, theirs: float) -> None:
    note = f"{theirs:.4g} tok/s; mark: at least {MARK}"
    section.judge(name, ours / theirs, "x", good=ours / theirs >= MARK, note=note)


async def _tokens(section: Section) -> int:
    """The length of the prompt: as much as time and memory allow. Each chunk size has run once then."""
    facts = section.subject.facts
    fits = min(facts.context_length // 2, facts.budget_bytes // 4 // facts.kv_bytes_a_token)
    allowed = min(_MOST_PASS_S, section.allowance.part(_PASSES))
    chosen = _CHUNKS[0]
    for size in _CHUNKS:
        if size > fits and size > chosen:
            break
        one = partial(_direct, tokens=size, chunk=size, clear=False, seed=size)
        await section.subject.on_engine(one)  # compiles what this size needs
        chosen = size
        if _GROWTH * await section.subject.on_engine(one) > allowed:
            break
    return chosen


def _direct(session: Session, tokens: int, chunk: int, clear: bool, seed: int) -> float:
    drawn = random_tokens(session, tokens, 1000 + seed)
    if clear:
        mx.clear_cache()

    def work() -> None:
        caches = session.loaded.new_cache()
        for start in range(0, tokens, chunk):
            session.loaded.model(mx.array(drawn[start : start + chunk])[None], cache=caches)
            evaluate(caches)
            if clear:
                mx.clear_cache()

    return seconds_of(work)


async def _engine(section: Section, tokens: int, round_: int) -> float:
    """Of a request's own prefill; its last token is fed by the first decode step."""
    subject = section.subject
    (answer,) = await ask_all(
        subject.handle, [request("prefill", subject.text(tokens, f"prefill {round_}"), 1, stored=False)]
    )
    assert answer.end is not None
    usage = answer.end.usage
    return (usage.prompt_tokens - usage.cached_tokens) / (usage.prefill_ms / 1e3)


def _mlx_lm(session: Session, tokens: int, seed: int) -> float:
    loaded = session.loaded
    prompt = mx.array(random_tokens(session, tokens, 2000 + seed))
    answer = list(stream_generate(loaded.model, loaded.tokenizer, prompt, max_tokens=1))
    return float(answer[-1].prompt_tps)
