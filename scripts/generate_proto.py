"""Generate `backend/pb` from `backend.proto`; with --check, say whether the committed files are fresh."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = "backend.proto"
PACKAGE = Path("backend/pb")
GENERATED = ("backend_pb2.py", "backend_pb2.pyi", "backend_pb2_grpc.py", "backend_pb2_grpc.pyi")


def generate(into: Path) -> None:
    """Write the stubs below `into`, in `backend/pb`.

    The path mapping names the file `backend/pb/backend.proto` to protoc, which makes the imports between
    the generated modules `backend.pb...` without editing them.
    """
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PACKAGE}={ROOT}",
            f"--plugin=protoc-gen-mypy={_plugin('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={_plugin('protoc-gen-mypy_grpc')}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out={into}",
            f"--mypy_grpc_out=generate_concrete_servicer_stubs:{into}",
            str(PACKAGE / PROTO),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def stale(fresh: Path) -> list[str]:
    """Names of committed files that differ from those below `fresh`."""
    return [name for name in GENERATED if _read(ROOT / PACKAGE / name) != _read(fresh / PACKAGE / name)]


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _plugin(name: str) -> str:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name


def main() -> int:
    """Run; 1 where --check finds stale files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a committed file is stale")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        if check:
            names = stale(fresh)
            if names:
                sys.stderr.write(f"stale, run scripts/generate_proto.py: {', '.join(names)}\n")
            return 1 if names else 0
        for name in GENERATED:
            shutil.copyfile(fresh / PACKAGE / name, ROOT / PACKAGE / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
