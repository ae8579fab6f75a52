"""Output: JSON for programs, tables and progress bars on a terminal, plain lines with tabs elsewhere."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from millstream.cli.hints import with_options

if TYPE_CHECKING:
    from rich.console import Console

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
COLUMN_GAP = "  "
M = TypeVar("M", bound="Message | Mapping[str, Any]")
Cells = Mapping[str, object]
"""One row of a table: {column: value}."""


def as_dict(value: Message | Mapping[str, Any]) -> dict[str, Any]:
    """A message as JSON has it: names as in the proto, every field present unless it is optional."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return dict(value)


class Screen:
    """Prints a command's results on stdout, as text or as JSON."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def one(self, value: Message | Mapping[str, Any], text: str) -> None:
        """Print one result: its JSON document, or this text."""
        if self.as_json:
            write(json.dumps(as_dict(value), ensure_ascii=False, indent=2))
        else:
            advise(text)

    def many(self, values: Iterable[M], cells: Callable[[M], Cells]) -> None:
        """Print a listing: a JSON array, or a table with one row each."""
        if self.as_json:
            write(json.dumps([as_dict(value) for value in values], ensure_ascii=False, indent=2))
        else:
            table([cells(value) for value in values])

    def stream(self, values: Iterable[M], text: Callable[[M], str]) -> M | None:
        """Print each result when it comes, as one line; returns the last one, None if there was none."""
        last = None
        for last in values:
            if self.as_json:
                write(json.dumps(as_dict(last), ensure_ascii=False))
            else:
                advise(text(last))
        return last

    @property
    def is_live(self) -> bool:
        """Whether a progress bar can be drawn: text output on a terminal."""
        return sys.stdout.isatty() and not self.as_json


def table(rows: Sequence[Cells]) -> None:
    """Print a table on a terminal, elsewhere lines with tabs and uncut cells. Without rows, nothing.

    On a terminal that is too narrow for it each row is its first cell, and below it the others by name.
    """
    if not rows:
        return
    # A line end or a tab inside a cell would make another row or column of it.
    shown = [[" ".join(escaped(with_options(str(cell))).split()) for cell in row.values()] for row in rows]
    if not sys.stdout.isatty():
        for line in [list(rows[0]), *shown]:
            write("\t".join(line))
        return
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, names = Console(), list(rows[0])
    widths = [max(map(cell_len, column)) for column in zip(names, *shown, strict=True)]
    if sum(widths) + len(COLUMN_GAP) * (len(names) - 1) > console.width:
        _print_stacked(console, names, shown)
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, len(COLUMN_GAP), 0, 0))
    for name in names:
        drawn.add_column(name, no_wrap=True)
    for line in shown:
        drawn.add_row(*(Text(cell) for cell in line))
    console.print(drawn)


def _print_stacked(console: "Console", names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for first, *others in rows:
        # Ids are there to be copied: what has no spaces is never cut or broken.
        console.print(Text(first, style="bold"), soft_wrap=True)
        known = [f"{name} {cell}" for name, cell in zip(names[1:], others, strict=True) if cell not in ("", "-")]
        console.print(Padding(Text(", ".join(known)), (0, 0, 0, len(COLUMN_GAP))))


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, float, str], None]]:
    """A progress bar on a terminal: call it with (done, total, text)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=None, text="")
        yield lambda done, total, text: progress.update(task, completed=done, total=total or None, text=text)


def write(text: str, *, end: str = "\n", error: bool = False) -> None:
    """Print text, some of which others may have written, as escaped() makes it."""
    print(escaped(text), end=end, file=sys.stderr if error else sys.stdout, flush=True)


def advise(text: str, *, error: bool = False) -> None:
    """Print text that may name next commands, which work as they stand there (hints.py)."""
    write(with_options(text), error=error)


def escaped(text: str) -> str:
    """The text with control characters as escapes, but for line ends and tabs: none reaches the terminal as a command.

    So are those that change the direction of what follows. In JSON the escapes mean the same characters.
    """
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
