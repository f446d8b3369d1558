"""The model that is checked: prompts for it, and answers that nothing ends."""

import asyncio
from pathlib import Path

from backend.check.asking import ask, request
from backend.check.subject import Subject
from backend.core.events import FinishReason
from tests.engine.harness import model_config
from tests.models import write_model

TOKENS = 40


def test_in_an_endless_body_no_token_ends_an_answer(tmp_path: Path) -> None:
    # Every token ends an answer, as far as this model says.
    path = write_model(tmp_path / "model", extra={"eos_token_id": list(range(272))})

    async def body(subject: Subject) -> None:
        wanted = request("r", subject.text(20, "salt"), TOKENS)
        for _ in range(2):
            ended = (await ask(subject.handle, wanted)).end
            assert ended is not None and (ended.reason, ended.usage.completion_tokens) == (FinishReason.STOP, 0)
            async with subject.endless():
                ended = (await ask(subject.handle, wanted)).end
            assert ended is not None and (ended.reason, ended.usage.completion_tokens) == (FinishReason.LENGTH, TOKENS)

    run(path, body)


def test_prompts_have_about_the_tokens_asked_for_and_the_salt_decides_them(tmp_path: Path) -> None:
    async def body(subject: Subject) -> None:
        for tokens in (8, 64, 1000):
            text = subject.text(tokens, "a")
            assert text == subject.text(tokens, "a") != subject.text(tokens, "b")
            assert 0.5 * tokens <= len(subject.encode(text)) <= 2 * tokens + 16
            assert text[:6] != subject.text(tokens, "b")[:6]

    run(write_model(tmp_path / "model"), body)


def run(path: Path, body: object) -> None:
    async def whole() -> None:
        subject = Subject(blas="reference")
        subject.handle.start()
        try:
            await subject.load(model_config(path))
            await body(subject)  # type: ignore[operator]
        finally:
            await subject.close()

    asyncio.run(whole())
