"""A corpus on disk: `{version}/objects/{key}`, `messages.json`, `answers.json` and `protos.binpb`.

Objects are kept byte for byte, messages with their headers. The answers are what the version itself read in them, as JSON.
The protos are a FileDescriptorSet, which `buf breaking` compares with those of today.
"""

import base64
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from servicekit.blobs.port import Blobs
from servicekit.bus.port import Received

HERE = Path(__file__).parent
OBJECTS, MESSAGES, ANSWERS, PROTOS = "objects", "messages.json", "answers.json", "protos.binpb"


@dataclass(frozen=True)
class Corpus:
    """What one version wrote."""

    folder: Path

    @property
    def version(self) -> str:
        return self.folder.name

    @cached_property
    def objects(self) -> dict[str, bytes]:
        """Bytes by key, in order of key."""
        root = self.folder / OBJECTS
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}

    @cached_property
    def messages(self) -> list[Received]:
        """In the order of publishing, topic by topic."""
        return [_message(stored) for stored in json.loads((self.folder / MESSAGES).read_text())]

    @cached_property
    def answers(self) -> dict[str, Any]:
        """By key of an object, and by `{topic}/{partition}/{offset}` of a message."""
        found: dict[str, Any] = json.loads((self.folder / ANSWERS).read_text())
        return found

    async def put_into(self, blobs: Blobs) -> None:
        """Put all objects of the corpus into a store."""
        for key, data in self.objects.items():
            await blobs.put(key, data)


def corpora() -> list[Corpus]:
    """Every corpus that is kept."""
    return [Corpus(path.parent) for path in sorted(HERE.glob(f"*/{ANSWERS}"))]


def this_version() -> str:
    """The version that pyproject.toml names."""
    project = tomllib.loads((HERE.parents[2] / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def place(message: Received) -> str:
    """The name of a message's answer."""
    return f"{message.topic}/{message.partition}/{message.offset}"


def write(
    folder: Path, objects: Mapping[str, bytes], messages: Sequence[Received], answers: Mapping[str, object]
) -> None:
    """Write a corpus into a fresh folder."""
    for key, data in objects.items():
        path = folder / OBJECTS / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / MESSAGES).write_text(_lines("[]", [_json(_stored(message)) for message in messages]))
    named = [f"{_json(name)}: {_json(answer)}" for name, answer in answers.items()]
    (folder / ANSWERS).write_text(_lines("{}", named))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _lines(brackets: str, items: Sequence[str]) -> str:
    """JSON with one item a line, so that a diff is readable."""
    return f"{brackets[0]}\n" + ",\n".join(items) + f"\n{brackets[1]}\n"


def _stored(message: Received) -> dict[str, Any]:
    headers = {name: value.decode() for name, value in message.headers.items()}
    found = {"topic": message.topic, "partition": message.partition, "offset": message.offset, "key": message.key}
    return {**found, "headers": headers, "value": base64.b64encode(message.value).decode()}


def _message(stored: Mapping[str, Any]) -> Received:
    headers = {name: text.encode() for name, text in stored["headers"].items()}
    value = base64.b64decode(stored["value"])
    return Received(stored["topic"], stored["key"], value, headers, stored["partition"], stored["offset"])
