"""Files that users write: YAML specs, and rows as JSON Lines. Errors name the file and the place in it."""

import json
import sys
from pathlib import Path
from typing import Any, TypeVar

import yaml
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from millstream.cli.command import Failed

M = TypeVar("M", bound=Message)


class _Loader(yaml.SafeLoader):
    """YAML that rejects a duplicate key: plain YAML would silently take the later one."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    names = [loader.construct_object(key) for key, _ in node.value]
    for name in names:
        if names.count(name) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"{name!r} appears twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_spec(path: Path, kind: type[M]) -> M:
    """A message from YAML. Raises Failed naming the file and the field."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise Failed(f"{path}: this is no YAML: {error}") from None
    if not isinstance(found, dict):
        raise Failed(f"{path}: it must hold fields of {kind.DESCRIPTOR.name}, such as `model: my-model`")
    try:
        return ParseDict(found, kind())
    except ParseError as error:
        raise Failed(f"{path}: {error}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows from JSON Lines; `-` reads standard input. Raises Failed naming the file and the line."""
    text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also break at U+2028, inside a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise Failed(f"{path} line {number}: this is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise Failed(f'{path} line {number}: a row is an object, such as {{"text": "…"}}')
        rows.append(row)
    return rows


def read_mapping(path: Path) -> dict[str, Any]:
    """A mapping from YAML; whole numbers stay int. Raises Failed naming the file."""
    return dict(MessageToDict(read_spec(path, Struct)))
