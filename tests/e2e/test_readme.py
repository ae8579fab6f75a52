"""The commands and code in README.md work as written."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from millstream.cli.app import app
from millstream.cli.files import read_spec
from millstream.registry.v1.model_pb2 import ModelSpec
from tests.worlds.platform import ROOT, world
from tests.worlds.waiting import FLOW

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="the recipe of README.md needs torch")
def test_the_commands_and_the_python_lead_to_a_prediction(tmp_path: Path) -> None:
    with world(tmp_path / "state") as platform:
        (commands,) = blocks("sh")
        for line in commands.splitlines():
            words = shlex.split(line)
            assert words[0] == "millstream"
            printed = platform.cli(*words[1:])
            assert printed.strip(), line
        (code,) = blocks("python")
        assert "Client()" in code
        code = code.replace(
            "Client()",
            f"Client(inference='{platform.addresses['inference']}', registry='{platform.addresses['registry']}')",
        )
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=FLOW, check=True
        )
        assert re.match(r"(positive|negative|neutral) 1 [0-9a-f]+\n1 \{.*accuracy.*\} 1\n", run.stdout), run.stdout


def test_the_model_file_can_be_applied(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    spec = read_spec(tmp_path / "model.yaml", ModelSpec)
    assert (spec.model, len(spec.gate), spec.promotion.automatic) == ("telugu-sentiment", 2, True)


def test_every_command_is_named() -> None:
    table = TEXT[TEXT.index("## The command") : TEXT.index("Every command has")]
    groups = get_command(app).commands  # type: ignore[attr-defined]
    for name, found in groups.items():
        for leaf in getattr(found, "commands", {name: found}):
            assert re.search(rf"\b{leaf}\b", table), f"{name} {leaf}"
