"""Writes the corpus of this version: `python -m tests.contract.old_messages.collect`.

A platform runs history.py; its objects and messages are kept, without what identifies the machine. The corpus of a released
version is never written again: an incompatible change must be fixed, not collected.
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from grpc_tools import protoc

from millstream.defaults import BY_NAME, dead_letters_of
from millstream.operations.v1.stored_pb2 import LedgerEntry, Process
from millstream.training.v1.lineage_pb2 import Lineage
from recipekit.hardware import processor
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus, Received
from servicekit.facts.ledger import read_entry
from tests.contract.old_messages import answers, kept
from tests.contract.old_messages.history import live
from tests.contract.old_messages.kinds import PROBES, PROTOS, kind_of, proto_files, strangers
from tests.worlds.platform import ROOT

PACKAGES = ("grpcio", "millstream", "protobuf")
"""Those of a lineage's packages that are kept."""
NAMES = {
    str(ROOT): "/opt/millstream",
    sysconfig.get_path("stdlib"): "/usr/lib/python3",
    sys.prefix: "/opt/venv",
    processor(): "A processor / 6 / 1",
}
LETTERS = dead_letters_of("trainer")


def main() -> None:
    folder = kept.HERE / kept.this_version()
    refuse_release(folder.name)
    with tempfile.TemporaryDirectory(prefix="millstream-corpus-") as state:
        platform, seen = live(Path(state))
        objects = {**asyncio.run(everything(platform.blobs())), **seen.objects}
        messages = one_of_each(asyncio.run(published(platform.bus())))
        objects = {key: neutral(key, data) for key, data in needed(objects).items()}
        refuse_names(objects, messages, state)
    if unknown := strangers(objects):
        raise SystemExit(f"objects of no kind; describe them in kinds.py: {', '.join(unknown)}")
    shutil.rmtree(folder, ignore_errors=True)
    kept.write(folder, objects, messages, answers_of(objects, messages))
    write_protos(folder / kept.PROTOS)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder.name}: {len(objects)} objects, {len(messages)} messages, {size / 1000:.0f} kB")


def refuse_release(version: str) -> None:
    """SystemExit if the version has a tag: what a release wrote is promised."""
    command = ["git", "tag", "--list", f"v{version}"]
    if subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip():
        raise SystemExit(f"version {version} is released, so its corpus stays: raise the version in pyproject.toml")


def answers_of(objects: Mapping[str, bytes], messages: Sequence[Received]) -> dict[str, Any]:
    found = {key: answers.of_object(key, data) for key, data in objects.items()}
    found |= {kept.place(message): answers.of_message(message) for message in messages}
    return {name: answer for name, answer in found.items() if answer is not None}


# --- reading the store and the bus


async def everything(blobs: Blobs) -> dict[str, bytes]:
    return {listed.key: await blobs.get(listed.key) async for listed in blobs.list("")}


async def published(bus: Bus) -> list[Received]:
    """Every message on every topic, oldest first."""
    tail = bus.tail([*BY_NAME, LETTERS], from_start=True)
    found: list[Received] = []
    await tail.start()
    while await tail.lag():
        found += await tail.batch()
    await tail.close()
    await bus.close()
    return found


def one_of_each(messages: Sequence[Received]) -> list[Received]:
    """The first event of every type, and all dead letters, which hold the messages that could not be parsed."""
    found: dict[str, Received] = {}
    for message in messages:
        event_type = message.headers.get("ce_type", b"").decode()
        broken = message.value.startswith(b"\xff") or not event_type
        if message.topic == LETTERS:
            found[kept.place(message)] = message
        elif not broken:
            found.setdefault(event_type, message)
    return sorted(found.values(), key=kept.place)


def needed(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Without what is no fact, checkpoints that are not read any more, and the pages of all reports but one."""
    ended = {key.split("/")[2] for key in objects if key.startswith("runs/outcomes/")}
    pages = sorted(key for key in objects if key.endswith(("/report.html", "/report.json")))
    dropped = {key for key in objects if key.startswith("checkpoints/") and key.split("/")[1] in ended} | {*pages[2:]}
    return {key: data for key, data in sorted(objects.items()) if key not in dropped and not key.startswith(PROBES)}


def write_protos(path: Path) -> None:
    """The protos as one FileDescriptorSet."""
    includes = [f"--proto_path={folder}" for folder in (PROTOS, files("grpc_tools") / "_proto")]
    if protoc.main(
        ["protoc", *includes, "--include_imports", f"--descriptor_set_out={path}", *map(str, proto_files())]
    ):
        raise SystemExit("protoc refused the protos: see its message above")


# --- what identifies the machine


def neutral(key: str, data: bytes) -> bytes:
    """An object without what identifies the machine that wrote it."""
    kind = kind_of(key)
    if kind is None or kind.message is None:
        # All but these are named by what they hold.
        is_text = "/log/" in key or key.startswith("reports/")
        return _neutral_text(data.decode()).encode() if is_text else data
    message = answers.parsed(kind, data)
    for one in answers.inside(message):
        _neutralise(one)
    if message == answers.parsed(kind, data):
        return data
    if not kind.in_ledger:
        return message.SerializeToString(deterministic=True)
    entry = LedgerEntry.FromString(data)
    assert read_entry(data, kind.message, kind.pattern).message != message
    entry.message.Pack(message, deterministic=True)
    return entry.SerializeToString(deterministic=True)


def _neutralise(message: Message) -> None:
    if isinstance(message, Process):
        message.host, message.boot_id, message.pid_namespace = "a-host", "a-boot", "pid:[1]"
    if isinstance(message, Lineage):
        for name in set(message.packages) - set(PACKAGES):
            del message.packages[name]
    for field, value in message.ListFields():
        if isinstance(value, str):
            setattr(message, field.name, _neutral_text(value))


def _neutral_text(text: str) -> str:
    for own, name in NAMES.items():
        text = text.replace(own, name)
    return text


def refuse_names(objects: Mapping[str, bytes], messages: Sequence[Received], state: str) -> None:
    """SystemExit if a sample still identifies this machine, a path on it or a user."""
    names = {*NAMES, socket.gethostname(), state, str(Path.home()), os.environ.get("USER", "")}
    words = [re.escape(name.encode()) for name in names if len(name) > 2 and name != "root"]
    expression = re.compile(rb"|".join([*words, rb"/(?:home|root|tmp|Users)/"]))
    texts = {**objects, **{kept.place(one): one.value + repr(one.headers).encode() for one in messages}}
    found = {name: sorted(set(expression.findall(text))) for name, text in texts.items() if expression.search(text)}
    if found:
        raise SystemExit(f"these samples identify the machine: {found}")


if __name__ == "__main__":
    main()
