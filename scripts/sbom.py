"""Write a software bill of materials of each list in requirements/: CycloneDX 1.6, as JSON.

The lists are complete, exact and hashed, so nothing is looked up and equal lists give equal files.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LISTS = ("worker", "cuda", "dev")
NAME = "mlx-worker"
_ENTRY = re.compile(
    r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;]+)(?: *; *(?P<marker>.*?))?(?P<hashes>(?: --hash=\S+)*) *"
)


def components(text: str) -> list[dict[str, Any]]:
    """What a list pins, in its order.

    Raises:
        ValueError: A line is no exact version with hashes.
    """
    entries = re.sub(r" *\\\n\s*", " ", text).splitlines()
    return [_component(entry) for entry in entries if entry.strip()]


def _component(entry: str) -> dict[str, Any]:
    match = _ENTRY.fullmatch(entry)
    if match is None or not match["hashes"]:
        raise ValueError(f"no exact version with hashes: {entry[:80]}")
    name = re.sub(r"[-_.]+", "-", match["name"]).lower()
    purl = f"pkg:pypi/{name}@{match['version']}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl + (f"?{match['marker']}" if match["marker"] else ""),
        "name": name,
        "version": match["version"],
        "purl": purl,
        # Of each wheel: which of them is installed depends on system and Python.
        "hashes": [
            {"alg": "SHA-256", "content": each} for each in re.findall(r"sha256:([0-9a-f]{64})", match["hashes"])
        ],
    }
    if match["marker"]:
        component["properties"] = [{"name": "pip:marker", "value": match["marker"]}]
    return component


def bill(name: str, version: str) -> dict[str, Any]:
    """The bill of one list of requirements/."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": NAME, "name": NAME, "version": version}},
        "components": components((ROOT / "requirements" / f"{name}.txt").read_text()),
    }


def main() -> int:
    """Write `sbom-LIST.cdx.json` for every list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=ROOT / "build", help="folder of the files (build)")
    into: Path = parser.parse_args().into
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "backend" / "__init__.py").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit("backend/__init__.py says no version")
    into.mkdir(parents=True, exist_ok=True)
    for name in LISTS:
        path = into / f"sbom-{name}.cdx.json"
        path.write_text(json.dumps(bill(name, found[1]), indent=1) + "\n")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
