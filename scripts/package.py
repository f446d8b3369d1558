"""Write the folder that LocalAI installs: `build/package/mlx-worker`. The same sources give the same bytes.

python scripts/package.py [--into DIRECTORY]
"""

import argparse
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "mlx-worker"
# The name under which LocalAI knows MLX: to other names it sends another engine's defaults.
ALIAS = "mlx"
DEFAULT = ROOT / "build" / "package"
# In the package -> here.
FILES = {
    "run.sh": "run.sh",
    "find-python": "scripts/find-python",
    "first-run.py": "scripts/first-run.py",
    "requirements/worker.txt": "requirements/worker.txt",
    "backend.proto": "backend.proto",
    "LICENSE": "LICENSE",
}
PROGRAMS = {"run.sh", "find-python"}
MODULES = ("backend", "mlx_cache")
YEAR_2020, YEAR_SECONDS = 1577836800, 31536000


def version() -> str:
    """The worker's own."""
    found = re.search(r'__version__ = "(.+)"', (ROOT / "backend" / "__init__.py").read_text())
    assert found
    return found[1]


def contents() -> Iterator[tuple[str, bytes]]:
    """Every file of the package by its path there, in order of the paths."""
    files = {path: (ROOT / source).read_bytes() for path, source in FILES.items()}
    for package in MODULES:
        for module in (ROOT / package).rglob("*.py"):
            files[module.relative_to(ROOT).as_posix()] = module.read_bytes()
    metadata = {"name": NAME, "alias": ALIAS, "version": version()}
    files["metadata.json"] = json.dumps(metadata, indent=2).encode() + b"\n"
    yield from sorted(files.items())


def mode_of(path: str) -> int:
    return 0o755 if path in PROGRAMS else 0o644


def time_of(content: bytes) -> int:
    """Seconds since 1970 that tell the content: Python takes a .pyc by its source's time and size."""
    return YEAR_2020 + int.from_bytes(hashlib.sha256(content).digest()[:4], "big") % YEAR_SECONDS


def write(into: Path) -> Path:
    """The package as a folder below `into`, in place of what was there under its name."""
    folder = into / NAME
    shutil.rmtree(folder, ignore_errors=True)
    for path, content in contents():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode_of(path))
        os.utime(target, (time_of(content),) * 2)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=DEFAULT, help="directory of the package (default: build/package)")
    folder = write(parser.parse_args().into)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1024:.0f} KiB; local-ai backends install {folder} {NAME} {ALIAS}")


if __name__ == "__main__":
    main()
