"""Get the vocabulary of OpenAI's harmony library, which its tests need: o200k_base.tiktoken, 3.6 MB.

From the npm package `tiktoken` where there is npm, else from where the library itself would get it. It is written only
if its hash is the one that the library asks for.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, MEMBER = "tiktoken@1.0.22", "package/encoders/o200k_base.json"
ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"


class WrongVocabularyError(Exception):
    """It has another hash."""


def vocabulary(encoder: bytes) -> bytes:
    """A line `token rank` for each token, of the package's JSON, whose lines are `! first-rank token token ...`."""
    found: list[tuple[int, str]] = []
    for line in json.loads(encoder)["bpe_ranks"].splitlines():
        _, first, *tokens = line.split(" ")
        found += enumerate(tokens, int(first))
    return "".join(f"{token} {rank}\n" for rank, token in sorted(found)).encode()


def from_npm(npm: str) -> bytes:
    """The vocabulary from the npm registry.

    Raises:
        subprocess.CalledProcessError: npm could not get the package.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as files:
            member = files.extractfile(MEMBER)
            assert member is not None
            return vocabulary(member.read())


def from_address() -> bytes:
    """The vocabulary from its original address.

    Raises:
        OSError: It cannot be reached.
    """
    with urllib.request.urlopen(ADDRESS, timeout=60) as answer:
        return answer.read()


def write(text: bytes, path: Path, *, sha256: str = SHA256) -> None:
    """Write it, if it is right.

    Raises:
        WrongVocabularyError: It is not.
    """
    found = hashlib.sha256(text).hexdigest()
    if found != sha256:
        raise WrongVocabularyError(f"SHA-256 is {found}, should be {sha256}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "harmony", help="the folder")
    parser.add_argument("--npm", default="npm", help="the npm command")
    options = parser.parse_args()
    npm = shutil.which(options.npm)
    path = options.into / "o200k_base.tiktoken"
    write(from_npm(npm) if npm else from_address(), path)
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
