"""Generate the stubs of `examples/go-host` from `backend.proto`; with --check, say whether the committed are fresh.

Needs Go: the plugins are the tools that `examples/go-host/go.mod` pins.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "go-host"
PACKAGE = "example.com/go-host/backendpb"
FOLDER = EXAMPLE / "backendpb"
PLUGINS = ("protoc-gen-go", "protoc-gen-go-grpc")


def generate(into: Path, go: str) -> None:
    """Write the stubs into a folder."""
    tools = {
        name: subprocess.run([go, "tool", "-n", name], cwd=EXAMPLE, check=True, capture_output=True, text=True)
        for name in PLUGINS
    }
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{ROOT}",
            *(f"--plugin={name}={found.stdout.strip()}" for name, found in tools.items()),
            f"--go_out={into}",
            f"--go-grpc_out={into}",
            # backend.proto names no Go package: it is for all languages.
            *(f"--{out}_opt={option}" for out in ("go", "go-grpc") for option in _options()),
            "backend.proto",
        ],
        cwd=ROOT,
        check=True,
    )


def _options() -> tuple[str, ...]:
    return (f"module={PACKAGE}", f"Mbackend.proto={PACKAGE}")


def stale(fresh: Path) -> list[str]:
    """Names of files that differ from the committed ones, or are only on one side."""
    names = {path.name for folder in (fresh, FOLDER) for path in folder.glob("*.go")}
    return sorted(name for name in names if _read(fresh / name) != _read(FOLDER / name))


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def main() -> int:
    """Run; 1 where --check finds stale files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a committed file is stale")
    parser.add_argument("--go", default="go", help="the go command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh, options.go)
        names = stale(fresh)
        if options.check:
            if names:
                sys.stderr.write(f"stale, run make go-proto: {', '.join(names)}\n")
            return 1 if names else 0
        shutil.copytree(fresh, FOLDER, dirs_exist_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
