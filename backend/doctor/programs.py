"""Programs that look at what may hang or end a process: each in one of its own, with a limit of time.

A program writes one JSON object as its last line of standard output.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

from backend.config import TOKEN_VARIABLES

SECONDS: Final = 120.0


class NotKnown(Exception):
    """A program has not said what it found; the message is why, in one line."""


def ask(module: str, *arguments: str, environment: Mapping[str, str], seconds: float = SECONDS) -> dict[str, Any]:
    """What a module of this package finds, run as a program.

    Raises:
        NotKnown: It ended without an answer, or took too long.
    """
    kept = {name: value for name, value in environment.items() if name not in TOKEN_VARIABLES}
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    command = [sys.executable, "-P", "-m", f"backend.doctor.{module}", *arguments]
    try:
        ran = subprocess.run(
            command,
            check=False,
            env={**kept, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise NotKnown(f"no answer within {seconds:g} s") from None
    try:
        return json.loads(ran.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        said = ran.stderr.strip().splitlines()
        raise NotKnown(f"exit code {ran.returncode}: {said[-1][:300] if said else 'it said nothing'}") from None
