"""What a page of documentation points to exists: links, their headings, and paths in backticks."""

import re
from pathlib import Path

import pytest

from tests.house.test_repository import HOUSE, files

CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]*))?\)")
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+/?)(?::\w+)?`")


def pages() -> list[str]:
    return [str(file.relative_to(HOUSE)) for file in files() if file.suffix == ".md"]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as forges make them."""
    lines = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", pages())
def test_its_links_lead_somewhere(name: str) -> None:
    page = HOUSE / name
    for target, heading in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        found = page.parent / target if target else page
        assert found.exists(), f"{name} links to {target}"
        assert not heading or heading in headings(found), f"{name} links to {target}#{heading}"


@pytest.mark.parametrize("name", pages())
def test_its_paths_exist(name: str) -> None:
    """Those that begin with a folder of the repository, or of the page itself."""
    page = HOUSE / name
    tops = {file.relative_to(HOUSE).parts[0] for file in files()}
    for path in PATH.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if path.split("/")[0] in tops:
            assert any((home / path).exists() or (home / f"{path}.py").exists() for home in (HOUSE, page.parent)), path
