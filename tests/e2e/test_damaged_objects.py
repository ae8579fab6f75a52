"""A stored object of one model is cut in half and every service is killed: the other model is trained, promoted and served.

Callers of the damaged one learn which object is to be restored. Once it is, all is well without another restart.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message

from millstream import Client
from millstream.dataset.v1.import_pb2 import Import
from millstream.defaults import SERVICES
from millstream.errors import DataLoss, DeadlineExceeded, NotFound, Unavailable
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.operations.v1.stored_pb2 import LedgerEntry
from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from tests.e2e.scenario import SPEC
from tests.recipes.toy_words.sample import rows
from tests.worlds.damage import half_of
from tests.worlds.platform import World, wait_until, world
from tests.worlds.waiting import FLOW

HURT, WELL = "hurt", "well"
TEXT = ["the mill was kind and sweet"]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two models, each with a champion."""
    state = tmp_path_factory.mktemp("damage") / "state"
    with world(state, resync_seconds=1.0, full_resync_seconds=1.0, settings={"slots": "2"}) as platform:
        with platform.client() as client:
            for model in (HURT, WELL):
                gate = [{"metric": "accuracy", "at_least": 0.3}]
                client.apply_model({**SPEC, "model": model, "dataset": model, "gate": gate})
                train(platform, model, 1)
        yield platform


def train(platform: World, model: str, number: int) -> None:
    """Import rows that the dataset does not have, and wait until the version of its snapshot is champion and answers."""
    file = platform.state / f"{model}-{number}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(60, seed=100 * number + len(model))))
    with platform.client() as client:
        mode: Any = {"recipe": SPEC["recipe"]} if number == 1 else {"mode": "append"}
        created = client.import_dataset(file, model, **mode)
        ended = client.wait_import(model, created.request_id, timeout=FLOW)
        assert (ended.state, ended.snapshot_number) == (Import.STATE_SUCCEEDED, number), ended.refusal
        wait_until(lambda: champion(client, model) == number, f"version {number} of {model} is champion")
        wait_until(lambda: served(client, model) == number, f"version {number} of {model} is served")


def champion(client: Client, model: str) -> int:
    with suppress(NotFound, Unavailable):
        return int(client.alias(model).version)
    return 0


def served(client: Client, model: str) -> int:
    """The version that answers; 0: none does yet."""
    with suppress(NotFound, Unavailable):
        return int(client.classify(model, TEXT).served.version)
    return 0


def why_not_served(client: Client) -> str:
    """The damaged object that keeps the damaged model from its callers; "": none does."""
    try:
        served(client, HURT)
    except DataLoss as error:
        return error.text
    return ""


def kill_all(platform: World) -> None:
    """Kill every service, and wait until its successor answers: so nothing that was read before is remembered."""
    before = {service: platform.pids(service) for service in SERVICES}
    for pids in before.values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    with platform.client() as client:

        def is_back(service: str) -> bool:
            with suppress(Unavailable, DeadlineExceeded):
                fresh = platform.pids(service)
                return (
                    bool(fresh) and not set(fresh) & set(before[service]) and bool(client.status(service, 1.0).service)
                )
            return False

        for service in SERVICES:
            wait_until(lambda service=service: is_back(service), f"{service} is back")  # type: ignore[misc]


def damaged(client: Client) -> str:
    """What the services report as damaged."""
    return "\n".join(text for service in SERVICES for text in client.status(service, 5.0).damaged)


class Case(NamedTuple):
    """An object of the damaged model."""

    kind: type[Message]
    key: Callable[[Client, int], str]
    """By the number of its champion, whose run, snapshot and entry have the same number."""
    listed: Callable[[Client], Mapping[str, str]]
    """What the listing that shows the object says of each of its items."""
    read: Callable[[Client, str], object]
    """The call that needs it, by its key."""
    is_served: bool
    """Whether the model answers after a restart."""


def run_of(client: Client, version: int) -> str:
    return next(run.run_id for run in client.runs(HURT) if run.spec.dataset_number == version)


def report_key(client: Client, version: int) -> str:
    report = next(iter(client.reports(HURT, version)))
    return f"reports/{HURT}/{version:010d}/{report.report_id.rpartition('.')[2]}/report"


def report_id(key: str) -> str:
    _, model, version, name, _ = key.split("/")
    return f"{model}.{int(version)}.{name}"


def last(key: str) -> str:
    return key.rpartition("/")[2]


CASES = {
    "spec": Case(
        LedgerEntry,
        lambda client, version: f"models/{HURT}/spec/0000000001",
        lambda client: {model.name: model.problem for model in client.models()},
        lambda client, key: client.model(HURT),
        is_served=False,
    ),
    "alias": Case(
        LedgerEntry,
        lambda client, version: f"models/{HURT}/aliases/champion/{client.alias(HURT).number:010d}",
        lambda client: {str(entry.number): entry.problem for entry in client.alias_history(HURT)},
        lambda client, key: client.alias(HURT),
        is_served=False,
    ),
    "version": Case(
        LedgerEntry,
        lambda client, version: f"models/{HURT}/versions/{version:010d}",
        lambda client: {str(version.version): version.problem for version in client.versions(HURT)},
        lambda client, key: client.version(HURT, int(last(key))),
        is_served=False,
    ),
    "snapshot": Case(
        LedgerEntry,
        lambda client, version: f"datasets/{HURT}/ledger/{version:010d}",
        lambda client: {str(snapshot.number): snapshot.problem for snapshot in client.snapshots(HURT)},
        lambda client, key: client.snapshot(HURT, int(last(key))),
        is_served=True,
    ),
    "run request": Case(
        RunRequest,
        lambda client, version: f"runs/requests/{run_of(client, version)}",
        lambda client: {run.run_id: run.reason for run in client.runs()},
        lambda client, key: client.run(last(key)),
        is_served=True,
    ),
    "run outcome": Case(
        RunOutcome,
        lambda client, version: f"runs/outcomes/{run_of(client, version)}",
        lambda client: {run.run_id: run.reason for run in client.runs(HURT)},
        lambda client, key: client.run(last(key)),
        is_served=True,
    ),
    "report": Case(
        EvaluationReport,
        report_key,
        lambda client: {report.report_id: report.error for report in client.reports(HURT)},
        lambda client, key: client.report(report_id(key)),
        is_served=True,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_half_object_hurts_only_what_it_belongs_to_and_all_is_well_once_it_is_whole(
    platform: World, name: str
) -> None:
    case, blobs = CASES[name], platform.blobs()
    with platform.client() as client:
        hurt, well = champion(client, HURT), champion(client, WELL)
        wait_until(lambda: served(client, HURT) == hurt, "it is served")
        key, before = case.key(client, hurt), len(case.listed(client))
        whole = asyncio.run(blobs.get(key))
        asyncio.run(blobs.put(key, half_of(whole, case.kind)))
        assert served(client, HURT) == hurt, "what is loaded stays served"
        kill_all(platform)

        train(platform, WELL, well + 1)
        listed = case.listed(client)
        assert len(listed) >= before, "nothing is left out"
        assert [key in problem for problem in listed.values()].count(True) == 1
        with pytest.raises(DataLoss, match=f"{key} is damaged.* restore it from a backup"):
            case.read(client, key)
        if case.is_served:
            wait_until(lambda: served(client, HURT) == hurt, "it is served")
        else:
            wait_until(lambda: key in why_not_served(client), "its callers learn which object is damaged")
        wait_until(lambda: key in damaged(client), "the status names it")
        assert key in platform.cli("status", code=1)

        asyncio.run(blobs.put(key, whole))
        wait_until(lambda: not why_not_served(client) and served(client, HURT) == hurt, "it is served again")
        wait_until(lambda: not damaged(client), "the status is well")
        assert not any(case.listed(client).values())
        train(platform, HURT, hurt + 1)
        assert len(list(client.runs(HURT))) == len(list(client.versions(HURT))) == hurt + 1, "nothing was done twice"
