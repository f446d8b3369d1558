"""What a load would make of a model. A program: arguments are a JSON array of the worker's flags, name and options.

One JSON object on standard output. Nothing is downloaded, and no code of the model runs.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict

# Before the hub's library is imported: what is not here is not fetched.
os.environ["HF_HUB_OFFLINE"] = "1"

from backend.core.errors import ModelLoadFailed
from backend.engine.loading.blas import REFERENCE, load_blas
from backend.engine.loading.failures import FOREIGN, one_line
from backend.pb import backend_pb2 as pb
from backend.process.settings import parse_settings
from backend.translate.options import LoadDefaults, load_request


def look(model: str, options: Sequence[str], defaults: LoadDefaults) -> dict[str, object]:
    """The model as it would be, or why it would be refused."""
    try:
        asked = load_request(pb.ModelOptions(Model=model, Options=options), defaults)
        load_blas(REFERENCE)
        from backend.engine.loading.preview import preview

        return {**asdict(preview(asked.config)), "warnings": asked.warnings}
    except ModelLoadFailed as error:
        return {"refused": error.message}


def main() -> None:
    """Look, and say."""
    logging.disable()
    try:
        defaults = parse_settings(json.loads(sys.argv[1]), os.environ).loads
        found = look(sys.argv[2], sys.argv[3:], defaults)
    except FOREIGN as error:
        found = {"refused": one_line(error)}
    sys.stdout.write(f"\n{json.dumps(found, default=str)}\n")


if __name__ == "__main__":
    main()
