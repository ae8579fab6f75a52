"""Rows in are rows out: through the client and the command line, whatever values a row holds."""

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from millstream.cli.app import app
from millstream.client.aio import AsyncClient
from millstream.client.shared import ImportMode
from millstream.dataset.v1.dataset_pb2 import DatasetSpec
from millstream.dataset.v1.import_pb2 import Import
from services.dataprep.pipeline.rules import SPLITS
from tests.worlds.dataprep import World, lines
from tests.worlds.rpc import serving

BASE = [{"number": number, "year": 2019, "id": 2**60 + number} for number in range(120)]
text = st.text(alphabet='aéక\u0c4d😀"\\{,', max_size=5)
value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**53, 10**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
row = st.dictionaries(st.sampled_from(["a", "b", "చాలా", "id", ""]), value, min_size=1, max_size=4)


def exact(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as texts, because 1, 1.0 and true are equal in Python."""
    return sorted({json.dumps(row, sort_keys=True) for row in rows})


async def imported(client: AsyncClient, rows: list[dict[str, Any]], mode: ImportMode = "") -> Import:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_bytes(lines(rows))
        asked = await client.import_dataset(path, "words", spec=DatasetSpec(), mode=mode)
        return await client.wait_import("words", asked.request_id)


async def round_trip(rows: list[dict[str, Any]]) -> None:
    world = World()
    async with world.running(), serving(world.service) as address, AsyncClient(dataprep=address) as client:  # type: ignore[arg-type]
        assert (await imported(client, rows)).state == Import.STATE_SUCCEEDED
        out = [row for split in SPLITS async for row in client.rows("words", split=split)]
        assert exact(out) == exact(rows)
        assert (await imported(client, out, "replace")).state == Import.STATE_UNCHANGED


@settings(max_examples=20, deadline=None)
@given(st.lists(row, max_size=20))
@example(
    [{"id": 1467810369123456701, "year": 2019, "half": 0.5, "one": 1.0, "tiny": 5e-324, "zero": -0.0, "big": 10**400}]
)
def test_rows_in_are_rows_out_and_a_second_import_changes_nothing(rows: list[dict[str, Any]]) -> None:
    asyncio.run(round_trip([*BASE, *rows]))


@pytest.mark.parametrize("output", ["text", "json"])
async def test_the_command_line_exports_what_it_imports(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"text": f"review {n}", "label": "ab"[n % 2], "stars": 4, "id": 1467810369123456700 + n} for n in range(120)
    ]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    world = World()

    async def millstream(*words: str) -> str:
        found = await asyncio.to_thread(CliRunner().invoke, app, [*words, "-o", output])
        assert found.exit_code == 0, found.output
        return found.stdout

    async with world.running(), serving(world.service) as address:  # type: ignore[arg-type]
        monkeypatch.setenv("MILLSTREAM_DATAPREP", address)
        (tmp_path / "spec.yaml").write_text("{}\n")
        spec = ("--spec", str(tmp_path / "spec.yaml"))
        await millstream("datasets", "import", str(tmp_path / "rows.jsonl"), "-d", "words", "--watch", *spec)
        out = "".join(
            [await millstream("datasets", "rows", "words", "--split", split, "--limit", "0") for split in SPLITS]
        )
        assert exact([json.loads(line) for line in out.splitlines()]) == exact(rows)
        (tmp_path / "again.jsonl").write_text(out)
        shown = await millstream(
            "datasets", "import", str(tmp_path / "again.jsonl"), "-d", "words", "--watch", "--replace"
        )
        assert "UNCHANGED" in shown.upper()
