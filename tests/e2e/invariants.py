"""The invariants after a flow, with or without faults, read from the store and by gRPC."""

import asyncio
import importlib
from collections import Counter

from google.protobuf.message import Message

from millstream import Client
from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry, ModelVersion
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.blobs.patterns import matcher
from servicekit.blobs.port import Blobs
from servicekit.facts.ledger import read_entry

OWNERS = ("dataprep", "trainer", "registry", "evaluator")
"""The services that store facts."""
UNPUBLISHED = ("datasets/*/imports/*", "evaluations/*/*/*")
"""The facts that no event announces: they give work to their own service alone."""
PUBLISHED = [
    matcher(pattern)
    for owner in OWNERS
    for pattern in importlib.import_module(f"services.{owner}.store").FACTS
    if pattern not in UNPUBLISHED
]
"""The keys of objects that are published on the bus."""


def keys(blobs: Blobs, prefix: str) -> list[str]:
    """The keys of the objects under a prefix."""

    async def listed() -> list[str]:
        return [found.key async for found in blobs.list(prefix)]

    return asyncio.run(listed())


def entries(blobs: Blobs, prefix: str, kind: type[Message]) -> list[Message]:
    """The messages of a ledger, oldest first; its numbers are dense."""
    found = keys(blobs, f"{prefix}/")
    assert [key.rpartition("/")[2] for key in found] == [f"{n:010d}" for n in range(1, len(found) + 1)]

    async def read() -> list[Message]:
        return [read_entry(await blobs.get(key), kind, key).message for key in found]

    return asyncio.run(read())


def check(blobs: Blobs, client: Client, model: str, dataset: str, *, files: int = 1) -> None:
    """Check all, after `files` different files with automatic training and promotion."""
    snapshots = entries(blobs, f"datasets/{dataset}/ledger", Snapshot)
    assert len(snapshots) == files == len(list(client.snapshots(dataset)))
    check_runs(blobs, client, model)
    check_versions(blobs, client, model)
    check_reports_and_aliases(blobs, client, model)
    assert keys(blobs, "outbox/") == [], "an event was not published"


def check_runs(blobs: Blobs, client: Client, model: str) -> None:
    """Every run, whatever its model, has one outcome, and a snapshot has one automatic run that succeeded."""
    runs = list(client.runs(model))
    outcomes = [key.split("/")[2] for key in keys(blobs, "runs/outcomes/")]
    assert set(outcomes) == {run.run_id for run in client.runs()}, (
        "a run without an outcome, or an outcome without a run"
    )
    succeeded = Counter(run.spec.dataset_number for run in runs if run.state == TrainingRun.STATE_SUCCEEDED)
    assert set(succeeded.values()) == {1}


def check_versions(blobs: Blobs, client: Client, model: str) -> None:
    """Every succeeded run has one version, and numbers are dense."""
    versions = list(client.versions(model))
    stored = entries(blobs, f"models/{model}/versions", ModelVersion)
    assert [version.version for version in versions] == list(range(len(stored), 0, -1))
    succeeded = {run.run_id for run in client.runs(model) if run.state == TrainingRun.STATE_SUCCEEDED}
    assert Counter(version.run_id for version in versions) == Counter(succeeded)


def check_reports_and_aliases(blobs: Blobs, client: Client, model: str) -> None:
    """Every version has a report, one for each champion it was compared with; the alias only rises, each step with one."""
    reports = list(client.reports(model))
    compared = Counter((report.version, report.champion_version) for report in reports)
    assert set(compared.values()) == {1}
    assert {report.version for report in reports} == {version.version for version in client.versions(model)}
    passed = {report.report_id for report in reports if report.status == EvaluationReport.STATUS_PASSED}
    history = list(client.alias_history(model))[::-1]
    assert len(history) == len(entries(blobs, f"models/{model}/aliases/champion", AliasEntry))
    moved = [entry.version for entry in history]
    assert moved == sorted(set(moved)), "the champion moved twice to one version, or back"
    assert all(entry.report_id in passed for entry in history), "the champion moved without a passing report"
