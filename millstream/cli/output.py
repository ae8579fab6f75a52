"""How answers are shown: JSON for programs, tables and progress for people, plain lines where there is no terminal."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

M = TypeVar("M", bound="Message | Mapping[str, Any]")
Cells = Mapping[str, object]


def as_dict(value: Message | Mapping[str, Any]) -> dict[str, Any]:
    """A message as JSON has it: names as in the proto, every field present unless it is optional."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return dict(value)


class Screen:
    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def one(self, value: Message | Mapping[str, Any], text: str) -> None:
        """One answer."""
        if self.as_json:
            _print(json.dumps(as_dict(value), ensure_ascii=False, indent=2))
        else:
            _print(text)

    def many(self, values: Iterable[M], cells: Callable[[M], Cells]) -> None:
        """A listing, one row each."""
        if self.as_json:
            _print(json.dumps([as_dict(value) for value in values], ensure_ascii=False, indent=2))
        else:
            table([cells(value) for value in values])

    def stream(self, values: Iterable[M], text: Callable[[M], str]) -> M | None:
        """Answers as they come, one line each; the last one is returned."""
        last = None
        for last in values:
            _print(json.dumps(as_dict(last), ensure_ascii=False) if self.as_json else text(last))
        return last

    @property
    def is_live(self) -> bool:
        return sys.stdout.isatty() and not self.as_json


def table(rows: Sequence[Cells]) -> None:
    """A table on a terminal; elsewhere lines with tabs, of which nothing is cut off."""
    if not rows:
        return
    shown = [[str(cell) for cell in row.values()] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(rows[0]), *shown]:
            _print("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name, cells in zip(rows[0], zip(*shown, strict=True), strict=True):
        # Ids are there to be copied: what has no spaces is never cut or broken.
        drawn.add_column(name, no_wrap=not any(" " in cell for cell in cells), overflow="fold")
    for line in shown:
        drawn.add_row(*(Text(cell) for cell in line))
    Console().print(drawn)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, float, str], None]]:
    """A bar on a terminal: call with (done, total, words)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=None, words="")
        yield lambda done, total, words: progress.update(task, completed=done, total=total or None, words=words)


def _print(text: str) -> None:
    print(text, flush=True)
