"""mlx-lm's LRUPromptCache around its BatchGenerator, as `mlx_lm.server` wires them: the other side of `clients`.

A process of its own (`python -m benchmarks.lru_driver MODEL`) that reads one job a line and writes one result a
line. A job has `bytes` (the cache's limit), `tokens` (of each answer), `system` (length of the shared beginning)
and `conversations`: for each client the prompts of its turns, in order, as token ids. Each client sends its next
prompt when its last answer is over.
"""

import json
import sys
import time
from typing import Any

from backend.engine.loading.blas import load_blas

KEY = "model"


def serve(model: Any, job: dict[str, Any]) -> dict[str, float]:
    """Answer every prompt; seconds, tokens asked, cached and generated, bytes held at most."""
    from mlx_lm.generate import BatchGenerator
    from mlx_lm.models.cache import LRUPromptCache

    cache = LRUPromptCache(max_size=1 << 20, max_bytes=job["bytes"])
    # Not typed closely enough in mlx-lm: new requests have no caches, finished answers always do.
    generator: Any = BatchGenerator(
        model, max_tokens=job["tokens"], stop_tokens=[], completion_batch_size=32, prefill_batch_size=8,
        prefill_step_size=2048,
    )  # fmt: skip
    queues = [iter(prompts) for prompts in job["conversations"]]
    clients: dict[int, int] = {}
    kinds: dict[int, list[str]] = {}
    result = {"asked": 0, "cached": 0, "generated": 0, "held": 0}

    def send(client: int) -> None:
        prompt = next(queues[client], None)
        if prompt is None:
            return
        found, rest = cache.fetch_nearest_cache(KEY, prompt)
        hit = len(prompt) - len(rest)
        # The server's segments: the system prompt, the context, and the last token.
        segments, types = [prompt[: job["system"]], prompt[job["system"] :]], ["system", "user"]
        while hit and segments and hit >= len(segments[0]):
            hit -= len(segments.pop(0))
            types.pop(0)
        if segments:
            segments[0] = segments[0][hit:]
        result["asked"] += len(prompt)
        result["cached"] += len(prompt) - len(rest)
        (uid,) = generator.insert_segments([segments], caches=[found], all_tokens=[prompt[: len(prompt) - len(rest)]])
        clients[uid], kinds[uid] = client, types[::-1]

    started = time.perf_counter()
    for client in range(len(queues)):
        send(client)
    while clients:
        prefilled, generated = generator.next()
        ended = [r.uid for r in prefilled if r.end_of_segment and not r.end_of_prompt and kinds[r.uid]]
        for uid, (caches, key) in generator.extract_cache(ended).items():
            cache.insert_cache(KEY, key[:], caches, cache_type=kinds[uid].pop())
        result["generated"] += len(generated)
        for response in generated:
            if response.finish_reason is not None:
                cache.insert_cache(KEY, response.all_tokens[:], response.prompt_cache, cache_type="assistant")
                send(clients.pop(response.uid))
        result["held"] = max(result["held"], cache.nbytes)
    return {"seconds": time.perf_counter() - started, **result}


def main() -> None:
    load_blas()
    from mlx_lm import load

    model = load(sys.argv[1])[0]
    for line in sys.stdin:
        print(json.dumps(serve(model, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
