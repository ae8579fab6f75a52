"""Listings with an object that is damaged: its line says so, with what to do."""

import grpc
import pytest
from google.protobuf.message import Message

from millstream.cli import format
from millstream.dataset.v1 import dataset_service_pb2 as dataset
from millstream.dataset.v1.dataset_pb2 import Dataset, Snapshot
from millstream.evaluation.v1 import evaluation_service_pb2 as evaluation
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import Fakes

PROBLEM = "the stored object a/b is damaged: restore it from a backup"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("models", "list"), registry.ListModelsResponse(models=[Model(name="hurt", problem=PROBLEM)])),
        (
            ("models", "versions", "hurt"),
            registry.ListModelVersionsResponse(model_versions=[ModelVersion(version=1, problem=PROBLEM)]),
        ),
        (
            ("models", "aliases", "hurt"),
            registry.ListAliasEntriesResponse(entries=[AliasEntry(number=1, problem=PROBLEM)]),
        ),
        (
            ("runs", "list"),
            training.ListTrainingRunsResponse(runs=[TrainingRun(run_id="hurt", reason=PROBLEM)]),
        ),
        (
            ("reports", "list", "hurt"),
            evaluation.ListEvaluationReportsResponse(reports=[EvaluationReport(report_id="r", error=PROBLEM)]),
        ),
        (
            ("datasets", "list"),
            dataset.ListDatasetsResponse(datasets=[Dataset(name="hurt", problem=PROBLEM)]),
        ),
        (
            ("datasets", "snapshots", "hurt"),
            dataset.ListSnapshotsResponse(snapshots=[Snapshot(number=1, problem=PROBLEM)]),
        ),
    ],
)
def test_a_damaged_object_has_a_line_that_says_what_to_do(
    cli: Command, fakes: Fakes, words: tuple[str, ...], answer: Message
) -> None:
    fakes.answers[type(answer)] = answer
    _, line = cli(*words).stdout.splitlines()
    assert PROBLEM in line and "unspecified" not in line


def test_a_damaged_resolution_has_a_line_that_says_what_to_do() -> None:
    assert format.resolution_line(DeadLetterResolution(note=PROBLEM)) == f"resolved, damaged: {PROBLEM}"


def test_a_model_whose_alias_is_damaged_is_listed(cli: Command, fakes: Fakes) -> None:
    fakes.entry, fakes.alias_code = None, grpc.StatusCode.DATA_LOSS
    _, line = cli("models", "list").stdout.splitlines()
    assert line.startswith("toy\ttoy_words\twords") and "champion of toy" in line
