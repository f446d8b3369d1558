"""docs/terminal.md names everything that can be typed, and every row that the doctor has."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from backend.bench.options import _parser as bench_parser
from backend.chat.commands import TABLE
from backend.chat.sampling import FIELDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "terminal.md").read_text(encoding="utf-8")


def test_the_page_names_every_command_and_setting_of_the_chat() -> None:
    assert set(re.findall(r"`(/\w+)", PAGE.split("## Bench")[0])) - {"/v1"} == set(TABLE)
    assert all(f"`{name}`" in PAGE for name in FIELDS)


def test_the_page_names_no_flag_that_bench_does_not_have() -> None:
    flags = {flag for action in bench_parser()._actions for flag in action.option_strings}
    named = set(re.findall(r"`(--[\w-]+)", PAGE.split("## Bench")[1].split("## Doctor")[0]))
    assert named and named <= flags


def test_every_picture_is_there_and_whole() -> None:
    pictures = re.findall(r"\]\((images/[\w-]+\.svg)\)", PAGE)
    assert len(pictures) == 3
    for picture in pictures:
        assert ET.parse(ROOT / "docs" / picture).getroot().tag.endswith("svg")
