"""ARCHITECTURE.md's outline is the repository, and CONTRIBUTING.md's answers lead somewhere."""

import itertools
import re
from collections.abc import Iterator

from tests.house.test_repository import HOUSE, files

DEEP = 3
OUTLINE = re.compile(r"^(?P<indent> *)(?P<name>[^\s/]+)/(?:\s+(?P<holds>\S.*))?$")


def expanded(name: str) -> list[str]:
    """`{a,b}` is a and b."""
    parts = [part.strip("{}").split(",") for part in re.findall(r"\{[^}]*\}|[^{}]+", name)]
    return ["".join(each) for each in itertools.product(*parts)]


def outlined() -> Iterator[str]:
    """Each folder that the outline names."""
    text = (HOUSE / "ARCHITECTURE.md").read_text(encoding="utf-8")
    block = text[text.index("## Where things are") :].split("```")[1]
    above: list[list[str]] = []
    for line in block.strip("\n").splitlines():
        found = OUTLINE.match(line)
        assert found, f"this is no line of an outline: {line!r}"
        depth = len(found["indent"]) // 2
        parents = above[depth - 1] if depth else [""]
        above[depth:] = [[f"{parent}{name}/" for parent in parents for name in expanded(found["name"])]]
        yield from above[depth]


def test_the_outline_is_the_repository() -> None:
    paths = [file.relative_to(HOUSE).parent.parts for file in files()]
    there = {"".join(f"{part}/" for part in parts[:depth]) for parts in paths for depth in range(1, DEEP + 1) if parts}
    named = list(outlined())
    assert len(named) == len(set(named)), "a folder is named twice"
    assert set(named) - there == set(), "the outline names folders that are not there"
    assert there - set(named) == set(), "say in ARCHITECTURE.md what these folders hold"


def test_a_newcomers_questions_lead_somewhere() -> None:
    text = (HOUSE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## Where is …?") :].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 10
    for row in rows:
        paths = re.findall(r"`([^`]+)`", row.split("|")[2])
        assert paths, f"no path answers: {row}"
        for path in paths:
            name, _, place = path.partition(":")
            assert (HOUSE / name).exists(), f"{name} does not exist: {row}"
            assert not place or place in (HOUSE / name).read_text(), f"{name} holds no {place}"
