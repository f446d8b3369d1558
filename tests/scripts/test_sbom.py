"""The bill of materials against the lists that it is made of, read another way."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.scripts.test_requirements import FOLDER, entries

SCRIPT = FOLDER.parent / "scripts" / "sbom.py"
spec = importlib.util.spec_from_file_location("sbom", SCRIPT)
assert spec is not None and spec.loader is not None
sbom = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sbom)


@pytest.mark.parametrize("name", sbom.LISTS)
def test_every_line_of_a_list_is_a_component_with_its_hashes(name: str) -> None:
    bill = sbom.bill(name, "1.0")
    components = {component["name"]: component for component in bill["components"]}
    expected = entries(name)
    assert components.keys() == expected.keys()
    for key, (requirement, hashes) in expected.items():
        component = components[key]
        assert (str(requirement.specifier), len(component["hashes"])) == (f"=={component['version']}", hashes)
        markers = [each["value"] for each in component.get("properties", ())]
        assert bool(markers) == (requirement.marker is not None), key
    references = [component["bom-ref"] for component in bill["components"]]
    assert len(references) == len(set(references))


@pytest.mark.parametrize("line", ["numpy>=2 --hash=sha256:" + "0" * 64, "numpy==2.0", "numpy @ https://example.com/x"])
def test_what_is_no_exact_version_with_hashes_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no exact version"):
        sbom.components(line)


def test_equal_lists_give_equal_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for folder in ("one", "other"):
        monkeypatch.setattr("sys.argv", ["sbom", "--into", str(tmp_path / folder)])
        assert sbom.main() == 0
        written.append((tmp_path / folder / "sbom-worker.cdx.json").read_text())
    assert written[0] == written[1]
    assert json.loads(written[0])["bomFormat"] == "CycloneDX"
