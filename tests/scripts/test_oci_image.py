"""The package as an OCI image: what its readers check, and the same bytes every time."""

import gzip
import hashlib
import io
import json
import runpy
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
IMAGE = runpy.run_path(str(SCRIPTS / "oci_image.py"))
sys.path.remove(str(SCRIPTS))
PACKAGE = runpy.run_path(str(SCRIPTS / "package.py"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("image")
    IMAGE["write"](into, "")
    return into


def blob(made: Path, descriptor: dict[str, Any]) -> bytes:
    """What a descriptor stands for, checked as a reader checks it."""
    content = (made / "worker-image" / IMAGE["path_of"](descriptor)).read_bytes()
    assert len(content) == descriptor["size"]
    assert "sha256:" + hashlib.sha256(content).hexdigest() == descriptor["digest"]
    return content


def read(made: Path, descriptor: dict[str, Any]) -> dict[str, Any]:
    return json.loads(blob(made, descriptor))


def files_of(tar: bytes) -> dict[str, tuple[bytes, int, float]]:
    """Content, mode and time of every file of a tar that owns nothing to anybody."""
    found: dict[str, tuple[bytes, int, float]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for entry in opened:
            assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "", "")
            if entry.isfile():
                content = opened.extractfile(entry)
                assert content is not None
                found[entry.name] = (content.read(), entry.mode, entry.mtime)
    return found


def test_the_index_leads_to_the_packages_files_for_each_system(made: Path) -> None:
    layout = json.loads((made / "worker-image" / "oci-layout").read_text())
    assert layout == {"imageLayoutVersion": "1.0.0"}
    (image,) = json.loads((made / "worker-image" / "index.json").read_text())["manifests"]
    systems = read(made, image)["manifests"]
    assert [each["platform"] for each in systems] == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "darwin", "architecture": "arm64"},
    ]
    for each in systems:
        manifest = read(made, each)
        config = read(made, manifest["config"])
        assert {key: config[key] for key in ("os", "architecture")} == each["platform"]
        (layer,) = manifest["layers"]
        tar = gzip.decompress(blob(made, layer))
        assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(tar).hexdigest()]
        packed = files_of(tar)
        assert {path: content for path, (content, _, _) in packed.items()} == dict(PACKAGE["contents"]())
        assert packed["run.sh"][1] == 0o755 and packed["backend/__main__.py"][1] == 0o644


def test_the_tar_holds_the_layout_and_what_docker_and_localai_read(made: Path) -> None:
    packed = files_of((made / "worker-image.tar").read_bytes())
    folder = made / "worker-image"
    layout = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path: content for path, (content, _, _) in packed.items()} == layout
    (image,) = json.loads(packed["manifest.json"][0])
    config = json.loads(packed[image["Config"]][0])
    (layer,) = image["Layers"]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(gzip.decompress(packed[layer][0])).hexdigest()]


def test_the_same_sources_give_the_same_image_over_another(made: Path, tmp_path: Path) -> None:
    left_over = tmp_path / "worker-image" / "blobs" / "sha256" / "old"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    again, _ = IMAGE["write"](tmp_path, "")
    assert again.read_bytes() == (made / "worker-image.tar").read_bytes()
    assert not left_over.exists()


@pytest.mark.parametrize("uri", ["", "oci://registry.example/worker:1"])
def test_the_gallery_leads_from_what_a_machine_has_to_the_image(uri: str, tmp_path: Path) -> None:
    tar, _ = IMAGE["write"](tmp_path, uri)
    entries = {entry["name"]: entry for entry in yaml.safe_load((tmp_path / "index.yaml").read_text())}
    meta = entries["mlx-worker"]
    # An entry with a URI would not be resolved at all.
    assert "uri" not in meta and meta["alias"] == "mlx"
    for capability in ("default", "metal"):
        assert entries[meta["capabilities"][capability]]["uri"] == (uri or f"ocifile://{tar}")
    assert not any(word in meta["capabilities"]["default"] for word in IMAGE["ONLY_FOR_MACS"])
