"""Train tiny-chat from nothing and write it in Hugging Face layout.

    python examples/tiny-chat/recipe/train.py --output examples/tiny-chat/model

Takes about ten minutes on two cores where OpenBLAS is installed. The weights of two runs differ in their last
bits (threads, BLAS), so a retrained model is checked by its answers: see ../check.py.
"""

import argparse
import ctypes
import os
import shutil
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent


def load_openblas() -> bool:
    """Make OpenBLAS the BLAS of MLX's CPU build; must run before MLX is imported. False where there is none."""
    # Two threads of ours share the work; more inside each product only get in their way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE.parent / "model", help="folder to write")
    parser.add_argument("--steps", type=int, default=6000, help="optimizer steps")
    parser.add_argument("--minutes", type=float, default=12.0, help="stop sooner after this time")
    parser.add_argument("--tokens", type=int, default=768, help="tokens a half batch")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--vocab", type=int, default=768, help="size of the vocabulary")
    parser.add_argument("--seed", type=int, default=7, help="of the corpus and the weights")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in the output folder")
    return parser.parse_args()


def prepare_tokenizer(folder: Path, vocab_size: int, seed: int) -> Any:
    """Train the tokenizer, write it beside the chat template, and load both as a server would."""
    from batches import split_text
    from corpus import draw_example
    from network import CONTEXT
    from tokenizer import train_tokenizer, write_tokenizer
    from transformers import AutoTokenizer

    write_tokenizer(train_tokenizer([], 300), folder, CONTEXT)
    template_only = AutoTokenizer.from_pretrained(folder)
    rng = Random(seed)
    texts = ["".join(split_text(draw_example(rng), template_only)) for _ in range(6000)]
    write_tokenizer(train_tokenizer(texts, vocab_size), folder, CONTEXT)
    return AutoTokenizer.from_pretrained(folder)


def main() -> None:
    options = parse_arguments()
    print("BLAS:", "OpenBLAS" if load_openblas() else "reference (slow; install libopenblas0)", flush=True)
    from network import build_network, network_config, read_network, write_network
    from training import train
    from transformers import AutoTokenizer

    options.output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / "chat_template.jinja", options.output / "chat_template.jinja")
    if options.resume:
        tokenizer, (model, config) = AutoTokenizer.from_pretrained(options.output), read_network(options.output)
    else:
        tokenizer = prepare_tokenizer(options.output, options.vocab, options.seed)
        eos_ids = [tokenizer.eos_token_id, tokenizer.pad_token_id]
        config = network_config(len(tokenizer), eos_ids, tokenizer.pad_token_id)
        model = build_network(config, options.seed)
    started = time.monotonic()
    train(model, tokenizer, options)
    write_network(model, config, options.output)
    print(f"wrote {options.output} after {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
