"""Files for the importer and for the command line: good ones, damaged ones, and noise."""

import gzip
import json
import random
import traceback
from itertools import pairwise
from pathlib import Path

from typer.testing import CliRunner

from millstream import Client
from millstream.cli.app import app
from millstream.dataset.v1.dataset_pb2 import DatasetSpec
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import InvalidArgument, MillstreamError
from tests.fuzz.messages import DECIMALS, TEXTS
from tests.recipes.toy_words.sample import rows

IMPORT_SECONDS = 60.0
ENDINGS = ("rows.jsonl", "rows.jsonl.gz", "rows.csv", "rows.csv.gz", "rows.txt", "rows", "r\u202eows.csv")
LETTERS = "abcdefghi"
BOMB = "model: toy\nconfig:\n  a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {letter}: &{letter} [{', '.join([f'*{before}'] * 8)}]\n" for before, letter in pairwise(LETTERS)
)
"""A few lines that are 8^9 values when their aliases are followed."""
YAML = (
    "model: toy\nrecipe: toy_words\ndataset: words\n",
    BOMB,
    "[" * 3000,
    "{}",
    "- 1",
    "model: !!python/object:os.system x\n",
    "model: toy\nmodel: two\n",
    "config: {epochs: .nan, rate: 1e400, more: 9" + "9" * 400 + "}\nmodel: toy\n",
)
INSERTED = (b'"', b"\r", b"\n", b"\x00", b"\xff", b"\\", b",", "\u2028".encode(), b"\xef\xbb\xbf")
TASKS = ("predict", "classify", "embed", "similar", "rank")


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes with a few of them changed, moved or lost."""
    found = bytearray(data)
    for _ in range(rng.choice((0, 1, 3, 20))):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(5):
            case 0:
                found[at:at] = rng.choice(
                    (b'"', b"\r", b"\n", b"\x00", b"\xff", b"\\", b",", "\u2028".encode(), b"\xef\xbb\xbf")
                )
            case 1:
                del found[at : at + rng.randrange(1, 40)]
            case 2:
                found[at : at + 1] = rng.randbytes(1)
            case 3:
                found[at:at] = found[at : at + 200]
            case 4:
                found[at:at] = rng.choice(TEXTS[:30]).encode("utf-8", "replace")[:300]
    return bytes(found)


def some_rows(rng: random.Random) -> bytes:
    """A file of rows: JSON Lines or CSV, damaged, in some encoding, perhaps compressed."""
    good = rows(rng.choice((3, 60)), seed=rng.randrange(100))
    if rng.random() < 0.5:
        if rng.random() < 0.3:
            good[rng.randrange(len(good))]["extra"] = rng.choice([*DECIMALS, 10**400, [[[]]], {"a": {"b": 1}}, None])  # type: ignore[assignment]
        text = "".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in good)
    else:
        text = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in good)
    data = damaged(rng, text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig"))))
    return gzip.compress(data) if rng.random() < 0.2 else data


class Imports:
    """Imports files over RPC, each into a dataset of its own."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self.folder = client, folder

    def run(self, rng: random.Random) -> str:
        """One import. Returns what is wrong with its end; "" if nothing is."""
        path = self.folder / rng.choice(ENDINGS)
        path.write_bytes(some_rows(rng))
        name = f"fuzz-{rng.randrange(2**40):x}"
        spec = DatasetSpec(recipe=rng.choice(("toy_words", "toy_words", "")))
        try:
            asked = self.client.import_dataset(path, name, spec=spec)
            ended = self.client.wait_import(name, asked.request_id, timeout=IMPORT_SECONDS)
        except InvalidArgument:
            return ""
        except MillstreamError as error:
            return f"the import ended in {type(error).__name__}: {error}"
        counts = ended.file.rows
        if ended.state == Import.STATE_SUCCEEDED and counts.read != counts.kept + counts.duplicate + counts.quarantined:
            return (
                f"read {counts.read} rows, kept {counts.kept}, {counts.duplicate} duplicate, {counts.quarantined} bad"
            )
        return ""


class Commands:
    """Runs commands that read files, in this process."""

    def __init__(self, port_base: int, folder: Path) -> None:
        self.port_base, self.folder = str(port_base), folder

    def run(self, rng: random.Random) -> str:
        """One command. Returns what is wrong with how it ended; "" if nothing is."""
        words = self._words(rng)
        ended = CliRunner().invoke(app, [*words, "--port-base", self.port_base])
        if ended.exception and not isinstance(ended.exception, SystemExit):
            trace = "".join(traceback.format_exception(ended.exception)[-2:])
            return f"`millstream {' '.join(words)}` ended in a traceback: {trace}"
        return "" if ended.exit_code in (0, 1, 2) else f"`millstream {' '.join(words)}` ended with {ended.exit_code}"

    def _words(self, rng: random.Random) -> list[str]:
        path = self.folder / rng.choice(("a file", "rows.jsonl", "rows.csv", "rows.jsonl.gz"))
        json_output = ["-o", "json"] if rng.random() < 0.5 else []
        if rng.random() < 0.4:
            text = rng.choice(YAML)
            path.write_bytes(
                damaged(rng, text.encode()) if rng.random() < 0.5 else text.encode(rng.choice(("utf-8", "utf-16")))
            )
            return ["apply", "-f", str(path), *json_output]
        path.write_bytes(some_rows(rng))
        if rng.random() < 0.3:
            name = f"cli-{rng.randrange(2**40):x}"
            return ["datasets", "import", str(path), "--dataset", name, "--recipe", "toy_words", *json_output]
        return [
            "predict",
            rng.choice(("toy", "nosuch")),
            "--file",
            str(path),
            "--task",
            rng.choice(TASKS),
            *json_output,
        ]
