"""Write the package as an OCI image layout and as one tar of it, with a gallery that names it. Same bytes every time.

python scripts/oci_image.py [--into DIRECTORY] [--uri URI]
"""

import argparse
import hashlib
import io
import json
import shutil
import struct
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import package

IMAGE = "worker-image"
# LocalAI hides gallery entries from machines that are no Macs where the name or the URI has one of these in it.
ONLY_FOR_MACS = ("darwin", "metal", "mlx")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
STORED_BYTES = 0xFFFF
# The same files for each: the first start picks the wheels.
PLATFORMS = (("linux", "amd64"), ("darwin", "arm64"))
EPOCH = "2020-01-01T00:00:00Z"

Json = Mapping[str, Any]


def tar_of(files: Iterator[tuple[str, bytes]]) -> bytes:
    """A tar of these files and the folders above them, owned by nobody in particular."""
    written = io.BytesIO()
    folders: set[PurePosixPath] = set()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in files:
            for folder in reversed(PurePosixPath(path).parents[:-1]):
                if folder not in folders:
                    folders.add(folder)
                    tar.addfile(_entry(f"{folder}", 0o755, package.YEAR_2020, tarfile.DIRTYPE))
            entry = _entry(path, package.mode_of(path), package.time_of(content), tarfile.REGTYPE)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def _entry(path: str, mode: int, when: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.mtime, entry.type = mode, when, kind
    return entry


def gzip_of(content: bytes) -> bytes:
    """A gzip file that stores its content: readers want gzip, and what a compressor writes depends on its version."""
    written = bytearray(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff")
    for start in range(0, len(content), STORED_BYTES):
        piece = content[start : start + STORED_BYTES]
        is_last = start + STORED_BYTES >= len(content)
        written += struct.pack("<BHH", is_last, len(piece), len(piece) ^ 0xFFFF) + piece
    return bytes(written + struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF))


class Blobs:
    """Content by its digest."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def add(self, media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
        """Keep it; its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content), **more}

    def add_json(self, media_type: str, content: Json, **more: Any) -> dict[str, Any]:
        return self.add(media_type, as_json(content), **more)


def as_json(content: Any) -> bytes:
    return json.dumps(content, indent=1, sort_keys=True).encode()


def path_of(descriptor: Json) -> str:
    return "blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")


def image(files: Iterator[tuple[str, bytes]], version: str) -> dict[str, bytes]:
    """Every file of the layout by its path: an index of one manifest a system, all with one layer."""
    blobs = Blobs()
    tar = tar_of(files)
    layer = blobs.add(LAYER, gzip_of(tar))
    manifests: list[dict[str, Any]] = []
    configs: list[dict[str, Any]] = []
    for system, machine in PLATFORMS:
        config = blobs.add_json(
            CONFIG,
            {
                "created": EPOCH,
                "os": system,
                "architecture": machine,
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]},
                "history": [{"created": EPOCH, "created_by": f"{package.NAME} {version}"}],
            },
        )
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
        manifests.append(blobs.add_json(MANIFEST, manifest, platform={"os": system, "architecture": machine}))
        configs.append(config)
    index = blobs.add_json(
        INDEX,
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests},
        annotations={"org.opencontainers.image.ref.name": version},
    )
    # What docker load and LocalAI's ocifile:// look for; they know one image a tar, and no systems.
    for_docker = [
        {"Config": path_of(configs[0]), "RepoTags": [f"{package.NAME}:{version}"], "Layers": [path_of(layer)]}
    ]
    return {
        "oci-layout": as_json({"imageLayoutVersion": "1.0.0"}),
        "index.json": as_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]}),
        "manifest.json": as_json(for_docker),
        **blobs.files,
    }


def gallery(uri: str, version: str) -> str:
    """A backend gallery for LocalAI: one entry that it resolves by what the machine has, and the entries it means."""
    return f"""\
# A backend gallery for LocalAI, made by scripts/oci_image.py.
- &worker
  name: {package.NAME}
  alias: {package.ALIAS}
  version: "{version}"
  license: mit
  description: |
    Language models with MLX: continuous batching, a shared prompt cache, tool calls, structured output.
  tags: [text-to-text, LLM, MLX, CPU, Metal]
  capabilities:
    default: cpu-lm-worker
    metal: metal-lm-worker
- !!merge <<: *worker
  name: cpu-lm-worker
  capabilities: {{}}
  uri: "{uri}"
- !!merge <<: *worker
  name: metal-lm-worker
  capabilities: {{}}
  uri: "{uri}"
"""


def write(into: Path, uri: str) -> tuple[Path, str]:
    """The layout, the tar and `index.yaml` below `into`; the path of the tar, and the URI in the gallery."""
    version = package.version()
    files = image(package.contents(), version)
    shutil.rmtree(into / IMAGE, ignore_errors=True)
    for path, content in files.items():
        target = into / IMAGE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    tar = into / f"{IMAGE}.tar"
    tar.write_bytes(tar_of(iter(sorted(files.items()))))
    uri = uri or f"ocifile://{tar.resolve()}"
    (into / "index.yaml").write_text(gallery(uri, version))
    return tar, uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=package.DEFAULT, help="directory (default: build/package)")
    parser.add_argument("--uri", default="", help="where the gallery says the image is (default: the tar, ocifile://)")
    options = parser.parse_args()
    tar, uri = write(options.into, options.uri)
    print(f"{tar}: {tar.stat().st_size / 1024:.0f} KiB; local-ai backends install ocifile://{tar} mlx-worker mlx")
    if hidden := [word for word in ONLY_FOR_MACS if word in uri.lower()]:
        print(
            f"the gallery's URI has {hidden[0]!r} in it, so LocalAI shows the worker on Macs alone: give another --uri"
        )


if __name__ == "__main__":
    main()
