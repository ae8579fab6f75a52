"""The five services on one in-process gRPC server: each method answers one fixed message and keeps its request.

The messages fill every field that the command line and the client show, so that a wrong column or call is visible.
"""
# size: one fixed message for each of the forty methods

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.dataset.v1 import dataset_service_pb2 as dataset
from millstream.dataset.v1.dataset_pb2 import ColumnReport, Dataset, DatasetSpec, LabelCount, LabelReport, Snapshot
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceServicer, add_DatasetServiceServicer_to_server
from millstream.dataset.v1.events_pb2 import DatasetEvent
from millstream.dataset.v1.import_pb2 import Import
from millstream.evaluation.v1 import evaluation_service_pb2 as evaluation
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, GateResult, MetricResult
from millstream.evaluation.v1.evaluation_service_pb2_grpc import (
    EvaluationServiceServicer,
    add_EvaluationServiceServicer_to_server,
)
from millstream.inference.v1 import inference_service_pb2 as inference
from millstream.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from millstream.inference.v1.prediction_pb2 import Classification, Embedding, Served, ServedModel, Timing
from millstream.inference.v1.refusal_pb2 import RefusalLift
from millstream.operations.v1 import operations_service_pb2 as operations
from millstream.operations.v1.operations_service_pb2_grpc import (
    OperationsServiceServicer,
    add_OperationsServiceServicer_to_server,
)
from millstream.operations.v1.service_status_pb2 import ConsumerStatus, Dependency, OutboxStatus, ServiceStatus
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion
from millstream.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.lineage_pb2 import Lineage
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile, TrainingRun
from millstream.training.v1.training_service_pb2_grpc import (
    TrainingServiceServicer,
    add_TrainingServiceServicer_to_server,
)

TIME = Timestamp(seconds=1_790_000_000)
WEIGHTS = b"weights" * 10
M = TypeVar("M", bound=Message)

LINEAGE = Lineage(
    run_id="run-1", dataset="words", dataset_number=4, snapshot_id="snap-4", recipe="toy_words", seed=42, attempts=2,
    code_commit="0123456789abcdef", code_dirty=True, hardware="8 cores",
    inexact_from_step=6, departures=["from step 6 on: torch 2.9.0, not 2.8.0"],
)  # fmt: skip
ARTIFACT = Artifact(
    digest="artifact-1",
    size_bytes=len(WEIGHTS),
    files=[ArtifactFile(path="deep/weights", digest=hashlib.sha256(WEIGHTS).hexdigest(), size_bytes=len(WEIGHTS))],
)
IMPORT = Import(
    request_id="import-1", dataset="words", state=Import.STATE_SUCCEEDED, rows_read=9, snapshot_number=4
)  # fmt: skip
IMPORT.file.rows.read, IMPORT.file.rows.kept, IMPORT.file.rows.duplicate, IMPORT.file.rows.quarantined = 9, 6, 1, 2
IMPORT.file.quarantine_reasons["no JSON"] = 2
IMPORT.file.trimmed_labels, IMPORT.file.normalised_labels = 4, 3
IMPORT.source.dialect = "comma, doubled quotes"
DATASET = Dataset(name="words", spec=DatasetSpec(recipe="toy_words"), newest_number=4)
SNAPSHOT = Snapshot(
    dataset="words", number=4, snapshot_id="snap-4", create_time=TIME, splits={"train": 5, "test": 1},
    quarantine_reasons={"no JSON": 2},
    columns=[
        ColumnReport(name="id", present=6, distinct=1000, distinct_stopped=True),
        ColumnReport(name="label", kept=True, present=6, distinct=2, normalised=3),
        ColumnReport(name="text", kept=True, present=6, distinct=6, trimmed=2),
    ],
    labels=LabelReport(
        column="label", distinct=2, warnings=["1 label of test that train does not have"],
        counts=[LabelCount(label="good", train=5), LabelCount(label="bad", test=1)],
    ),
)  # fmt: skip
SNAPSHOT.rows.read, SNAPSHOT.rows.kept, SNAPSHOT.rows.duplicate, SNAPSHOT.rows.quarantined = 9, 6, 1, 2
SNAPSHOT.source.file_name, SNAPSHOT.source.size_bytes = "rows.jsonl", 123
SNAPSHOT.source.dialect = "comma, doubled quotes"

RUN = TrainingRun(
    run_id="run-1", state=TrainingRun.STATE_SUCCEEDED, attempt=2, metrics={"accuracy": 0.75}, lineage=LINEAGE,
    artifact=ARTIFACT, create_time=TIME, start_time=TIME, end_time=TIME, actor="ada",
)  # fmt: skip
RUN.spec.model, RUN.spec.recipe, RUN.spec.dataset, RUN.spec.dataset_number = "toy", "toy_words", "words", 4
RUN.spec.snapshot_id = "snap-4"
RUN.progress.step, RUN.progress.total_steps, RUN.progress.loss, RUN.progress.elapsed.seconds = 9, 10, 0.5, 3

MODEL = Model(name="toy", etag="7", actor="ada", update_time=TIME)
MODEL.spec.model, MODEL.spec.recipe, MODEL.spec.dataset = "toy", "toy_words", "words"
MODEL.spec.promotion.automatic = True
VERSION = ModelVersion(
    model="toy", version=3, run_id="run-1", artifact=ARTIFACT, lineage=LINEAGE, metrics={"accuracy": 0.75},
    create_time=TIME,
)  # fmt: skip
ENTRY = AliasEntry(
    model="toy", alias="champion", number=5, version=3, action=AliasEntry.ACTION_ROLLED_BACK, hold=True, actor="ada",
    reason="a slip", time=TIME,
)  # fmt: skip
REPORT = EvaluationReport(
    report_id="toy.3.0123456789abcdef", model="toy", version=3, dataset="words", dataset_number=4, champion_version=2,
    status=EvaluationReport.STATUS_FAILED, rows_compared=7, rows_left_out=1, baseline_name="most frequent label",
    metrics=[MetricResult(metric="accuracy", meaning="share that is right", candidate=0.75, baseline=0.5, champion=0.7)],
    gate=[GateResult(passed=False, text="accuracy 0.75 is below 0.8")], notes=["only 7 rows"], create_time=TIME,
)  # fmt: skip
REPORT.label_change.labels.add(label="b\u200bad", champion_rows=3)
REPORT.label_change.labels.add(label="fine", version_rows=1)
REPORT.label_change.labels.add(label="good", version_rows=4, champion_rows=5)
REPORT.label_change.kept = REPORT.label_change.new = REPORT.label_change.lost = 1
SERVED = Served(
    model="toy", version=3, alias="champion", run_id="run-1", backend="python", precision="float64"
)  # fmt: skip
PROBLEM = inference.LoadProblem(model="toy", alias="champion", version=4, reason="no memory")
RESOLUTION = DeadLetterResolution(
    action=DeadLetterResolution.ACTION_REPLAYED, actor="ada", time=TIME, note="mended"
)  # fmt: skip
EVENT = DatasetEvent()
EVENT.snapshot_created.dataset = "words"
LETTER = operations.DeadLetter(
    id="letter-1", topic="trainer.dlq", key=b"words", value=EVENT.SerializeToString(), headers={"ce_id": b"e1"},
    reason="no event", original_topic="millstream.dataset.v1", original_partition=2, original_offset=17, time=TIME,
)  # fmt: skip
HEALTHY = ServiceStatus(
    service="registry", commit="0123456789abcdef", ready=True, blobs=Dependency(ok=True), bus=Dependency(ok=True),
    consumer=ConsumerStatus(lag=3), outbox=OutboxStatus(pending=2),
)  # fmt: skip


def struct(**values: Any) -> Struct:
    """A row or prediction."""
    made = Struct()
    made.update(values)
    return made


class Fakes(
    DatasetServiceServicer,
    TrainingServiceServicer,
    RegistryServiceServicer,
    EvaluationServiceServicer,
    InferenceServiceServicer,
    OperationsServiceServicer,
):
    """Answers fixed messages, or those in `answers`; `requests` holds what was asked, a test may change `status`."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.uploaded, self.alias_code = b"", grpc.StatusCode.NOT_FOUND
        self.status = HEALTHY
        self.texts = [
            dataset.RowText(json='{"id": 9007199254740993, "label": "good", "text": "చాలా"}', size_bytes=62),
            dataset.RowText(json='{"label": "b', size_bytes=9_000_000, cut=True),
        ]
        self.letters = [LETTER]
        self.run_states = [TrainingRun.STATE_RUNNING, TrainingRun.STATE_SUCCEEDED]
        self.recorded: Import | None = None
        """The import that ImportDataset finds under the request's id; None: it records a new one."""
        self.import_states = [Import.STATE_RUNNING, Import.STATE_SUCCEEDED]
        self.served_version, self.version_step = 3, 0
        self.entry: AliasEntry | None = ENTRY
        """None: the alias names no version, or it fails with `alias_code`."""
        self.answers: dict[type, Message] = {}

    def last(self, kind: type[M]) -> M:
        """The newest request of this kind."""
        return next(request for request in reversed(self.requests) if isinstance(request, kind))

    def _keep(self, request: Message, answer: Any) -> Any:
        self.requests.append(request)
        return self.answers.get(type(answer), answer)

    # dataprep
    def ImportDataset(self, request_iterator: Any, context: Any) -> Any:
        first, *chunks = list(request_iterator)
        self.uploaded = b"".join(part.chunk for part in chunks)
        made = Import(request_id=first.header.request_id, dataset=first.header.dataset, state=Import.STATE_PENDING)
        return self._keep(first.header, dataset.ImportDatasetResponse(dataset_import=self.recorded or made))

    def WatchImport(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        for state in self.import_states:
            found = Import()
            found.CopyFrom(IMPORT)
            found.state = state
            found.refusal = "no row is valid" if state == Import.STATE_REFUSED else ""
            yield dataset.WatchImportResponse(dataset_import=found)

    def GetDataset(self, request: Any, context: Any) -> Any:
        return self._keep(request, dataset.GetDatasetResponse(dataset=DATASET))

    def ListDatasets(self, request: Any, context: Any) -> Any:
        return self._keep(request, dataset.ListDatasetsResponse(datasets=[DATASET]))

    def GetSnapshot(self, request: Any, context: Any) -> Any:
        return self._keep(request, dataset.GetSnapshotResponse(snapshot=SNAPSHOT))

    def ListSnapshots(self, request: Any, context: Any) -> Any:
        return self._keep(request, dataset.ListSnapshotsResponse(snapshots=[SNAPSHOT]))

    def ListRows(self, request: Any, context: Any) -> Any:
        rows = [struct(text="చాలా", label="good"), struct(text="b", label="bad")]
        return self._keep(request, dataset.ListRowsResponse(rows=rows, texts=self.texts))

    # trainer
    def CreateTrainingRun(self, request: Any, context: Any) -> Any:
        return self._keep(request, training.CreateTrainingRunResponse(run=RUN))

    def GetTrainingRun(self, request: Any, context: Any) -> Any:
        return self._keep(request, training.GetTrainingRunResponse(run=RUN))

    def ListTrainingRuns(self, request: Any, context: Any) -> Any:
        return self._keep(request, training.ListTrainingRunsResponse(runs=[RUN, RUN]))

    def WatchTrainingRun(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        for state in self.run_states:
            found = TrainingRun()
            found.CopyFrom(RUN)
            found.state = state
            yield training.WatchTrainingRunResponse(run=found)

    def CancelTrainingRun(self, request: Any, context: Any) -> Any:
        run = TrainingRun(run_id=request.run_id, state=TrainingRun.STATE_CANCELLED, reason=request.reason)
        return self._keep(request, training.CancelTrainingRunResponse(run=run))

    def ReadTrainingLog(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        text = "చాలా\n".encode()
        for chunk in (text[:4], text[4:]):  # cut inside a character
            yield training.ReadTrainingLogResponse(attempt=1, chunk=chunk)

    # registry
    def ApplyModel(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.ApplyModelResponse(model=MODEL))

    def GetModel(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.GetModelResponse(model=MODEL))

    def ListModels(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.ListModelsResponse(models=[MODEL]))

    def GetModelVersion(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.GetModelVersionResponse(model_version=VERSION))

    def ListModelVersions(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.ListModelVersionsResponse(model_versions=[VERSION]))

    def GetAlias(self, request: Any, context: Any) -> Any:
        if self.entry is None:
            context.abort(self.alias_code, "champion of toy names no version yet")
        return self._keep(request, registry.GetAliasResponse(entry=self.entry))

    def ListAliases(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.ListAliasesResponse(entries=filter(None, [self.entry])))

    def ListAliasEntries(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.ListAliasEntriesResponse(entries=[ENTRY]))

    def AliasAt(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.AliasAtResponse(entry=ENTRY))

    def PromoteModelVersion(self, request: Any, context: Any) -> Any:
        answer = registry.PromoteModelVersionResponse(entry=ENTRY)
        answer.entry.alias = request.alias
        return self._keep(request, answer)

    def RollbackAlias(self, request: Any, context: Any) -> Any:
        return self._keep(request, registry.RollbackAliasResponse(entry=ENTRY))

    def ReleaseAlias(self, request: Any, context: Any) -> Any:
        entry = AliasEntry(
            model=request.model, alias=request.alias, version=3, number=6, action=AliasEntry.ACTION_RELEASED
        )
        return self._keep(request, registry.ReleaseAliasResponse(entry=entry))

    def DownloadArtifact(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        for chunk in (WEIGHTS[:30], WEIGHTS[30:]):
            yield registry.DownloadArtifactResponse(path="deep/weights", chunk=chunk)

    # evaluator
    def GetEvaluationReport(self, request: Any, context: Any) -> Any:
        return self._keep(request, evaluation.GetEvaluationReportResponse(report=REPORT))

    def ListEvaluationReports(self, request: Any, context: Any) -> Any:
        return self._keep(request, evaluation.ListEvaluationReportsResponse(reports=[REPORT]))

    def EvaluateModelVersion(self, request: Any, context: Any) -> Any:
        return self._keep(request, evaluation.EvaluateModelVersionResponse(request_number=2))

    def GetEvaluationReportPage(self, request: Any, context: Any) -> Any:
        return self._keep(request, evaluation.GetEvaluationReportPageResponse(html="<html>తె</html>"))

    # inference
    def _served(self) -> Served:
        served = Served()
        served.CopyFrom(SERVED)
        served.version = self.served_version
        self.served_version += self.version_step
        return served

    def Classify(self, request: Any, context: Any) -> Any:
        answers = [Classification(label="good", confidence=0.75) for _ in request.texts]
        return self._keep(request, inference.ClassifyResponse(classifications=answers, served=self._served()))

    def Embed(self, request: Any, context: Any) -> Any:
        answers = [Embedding(values=[0.5, 0.25]) for _ in request.texts]
        return self._keep(request, inference.EmbedResponse(embeddings=answers, served=self._served()))

    def Similar(self, request: Any, context: Any) -> Any:
        near = inference.Neighbour(similarity=0.5, row=struct(text="near"), row_json='{"id": 9007199254740993}')
        return self._keep(request, inference.SimilarResponse(neighbours=[near], served=self._served()))

    def Rank(self, request: Any, context: Any) -> Any:
        ranked = [inference.Ranked(id=candidate.id, score=0.5) for candidate in request.candidates]
        return self._keep(request, inference.RankResponse(ranked=ranked, served=self._served()))

    def Predict(self, request: Any, context: Any) -> Any:
        answers = [struct(label="good", length=len(row["text"])) for row in request.rows]
        timing = Timing(prepare=Duration(nanos=600_000_000), queue=Duration(), infer=Duration(seconds=1, nanos=7))
        return self._keep(request, inference.PredictResponse(predictions=answers, served=self._served(), timing=timing))

    def ListServedModels(self, request: Any, context: Any) -> Any:
        found = ServedModel(served=self._served(), lineage=LINEAGE, tasks=["classify", "embed"], columns=["n", "text"])
        return self._keep(request, inference.ListServedModelsResponse(models=[found]))

    def ListLoadProblems(self, request: Any, context: Any) -> Any:
        return self._keep(request, inference.ListLoadProblemsResponse(problems=[PROBLEM]))

    def RetryModelVersion(self, request: Any, context: Any) -> Any:
        lift = RefusalLift(model=request.model, version=request.version, actor="ada", time=TIME, note=request.note)
        lift.refusal.reason = "golden row 0"
        return self._keep(request, inference.RetryModelVersionResponse(lift=lift))

    # operations
    def GetStatus(self, request: Any, context: Any) -> Any:
        return self._keep(request, operations.GetStatusResponse(status=self.status))

    def ListDeadLetters(self, request: Any, context: Any) -> Any:
        return self._keep(request, operations.ListDeadLettersResponse(dead_letters=self.letters))

    def GetDeadLetter(self, request: Any, context: Any) -> Any:
        (letter,) = [letter for letter in self.letters if letter.id == request.id]
        return self._keep(request, operations.GetDeadLetterResponse(dead_letter=letter))

    def ReplayDeadLetter(self, request: Any, context: Any) -> Any:
        return self._keep(request, operations.ReplayDeadLetterResponse(resolution=RESOLUTION))

    def DropDeadLetter(self, request: Any, context: Any) -> Any:
        dropped = DeadLetterResolution(action=DeadLetterResolution.ACTION_DROPPED, actor="ada", note=request.reason)
        return self._keep(request, operations.DropDeadLetterResponse(resolution=dropped))

    def TailEvents(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        for number in range(5):
            yield operations.TailEventsResponse(
                topic="millstream.dataset.v1", event_type="SnapshotCreated", time=TIME, json=f'{{"number": {number}}}'
            )


ADDERS = (
    add_DatasetServiceServicer_to_server,
    add_TrainingServiceServicer_to_server,
    add_RegistryServiceServicer_to_server,
    add_EvaluationServiceServicer_to_server,
    add_InferenceServiceServicer_to_server,
    add_OperationsServiceServicer_to_server,
)


@contextmanager
def running(fakes: Fakes) -> Iterator[str]:
    """The address of a server with all services of these fakes."""
    threads = ThreadPoolExecutor(4)
    server = grpc.server(threads)
    for add in ADDERS:
        add(fakes, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
        threads.shutdown()
