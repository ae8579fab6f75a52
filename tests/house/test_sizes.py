"""Long files and long functions carry their reason in a comment `# size: …`."""

import ast
from pathlib import Path

from tests.house.test_repository import HOUSE, files

LONG_FILE, LONG_FUNCTION = 300, 40
"""Lines."""


def python_files() -> list[Path]:
    """The Python files that people write."""
    return [file for file in files() if file.suffix == ".py" and "_pb2" not in file.name]


def test_a_long_file_says_why() -> None:
    """Below its docstring: `# size: reason`."""
    silent = {}
    for file in python_files():
        lines = file.read_text().splitlines()
        docstring = ast.parse("\n".join(lines)).body[:1]
        start = docstring[0].end_lineno or 0 if docstring and isinstance(docstring[0], ast.Expr) else 0
        if len(lines) > LONG_FILE and not any(line.startswith("# size: ") for line in lines[start : start + 3]):
            silent[str(file.relative_to(HOUSE))] = len(lines)
    assert silent == {}, f"cut these, or say why they are longer than {LONG_FILE} lines"


def test_a_long_function_says_why() -> None:
    """At its `def` or just above: `# size: reason`."""
    silent = {}
    for file in python_files():
        lines = file.read_text().splitlines()
        for found in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
            head = lines[max(0, first - 2) : found.body[0].lineno - 1]
            if (found.end_lineno or 0) - found.lineno >= LONG_FUNCTION and not any("# size: " in line for line in head):
                silent[f"{file.relative_to(HOUSE)}: {found.name}"] = (found.end_lineno or 0) - found.lineno + 1
    assert silent == {}, f"cut these, or say why they are longer than {LONG_FUNCTION} lines"
