"""The README says what the methods declare."""

import re
from pathlib import Path

from afterimage.registry import methods

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_methods_follows_from_the_registry():
    text = (ROOT / "README.md").read_text()
    found = re.search(r"<!-- methods: .*?-->\n.*?\n\|---.*?\n(.*?)<!-- end of methods -->", text, re.DOTALL)
    expected = [
        f"| `{verb}` | `{method.cls.__name__}` | {method.summary} | {method.reference} |"
        for verb, method in methods().items()
    ]
    assert found
    assert found[1].splitlines() == expected


def test_every_linked_file_is_there():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links {target}"
