"""The scenario: a file is imported, and its model answers with a prediction that names its origin."""

import json
from pathlib import Path
from typing import Any

import yaml

from deploy.demo.flow import Flow
from millstream import Client
from millstream.dataset.v1.import_pb2 import Import
from millstream.registry.v1.model_pb2 import AliasEntry
from tests.e2e import invariants
from tests.worlds.platform import TOY, World
from tests.worlds.waiting import FLOW

SPEC: dict[str, Any] = yaml.safe_load((TOY / "model.yaml").read_text())
MODEL, DATASET = SPEC["model"], SPEC["dataset"]


def a_file(folder: Path, skip: int = 0) -> Path:
    """The toy recipe's sample, with a duplicate and two bad rows; `skip` leaves out its first rows."""
    rows = (TOY / "sample.jsonl").read_text().splitlines()[skip:]
    bad = ["this is no JSON", json.dumps({"text": "", "label": "good"})]
    path = folder / f"rows-{skip}.jsonl"
    path.write_text("\n".join([*rows, rows[0], *bad]) + "\n")
    return path


def everywhere(world: World, version: int, patience: float = FLOW) -> None:
    """Wait until each replica of inference serves the version."""
    for address in world.addresses["inference"].split(","):
        with Client(inference=address, credentials=world.credentials) as replica:
            replica.wait_served(MODEL, version, timeout=patience)


def run(world: World, file: Path, number: int = 1, patience: float = FLOW) -> int:
    """Import a file, declare the model, and follow the flow until its version answers; returns the version.

    `number` is the count of files so far, this one included.
    """
    with world.client() as client:
        flow = Flow(client, patience=patience, training_patience=patience)
        flow.apply(SPEC)
        imported, snapshot = flow.bring_in(file, DATASET, SPEC["recipe"])
        assert imported.state == Import.STATE_SUCCEEDED
        assert (snapshot.number, snapshot.rows.duplicate, snapshot.rows.quarantined) == (number, 1, 2)
        assert snapshot.rows.read == len(file.read_text().splitlines())
        trained = flow.train(MODEL, snapshot)
        version = flow.register(MODEL, trained)
        report = flow.evaluate(version)
        entry = flow.promote(version, report)
        assert (entry.action, entry.report_id) == (AliasEntry.ACTION_PROMOTED_AUTOMATICALLY, report.report_id)
        served = flow.serve(version)
        everywhere(world, version.version, patience)
        answer = client.classify(MODEL, ["the mill was kind and sweet"])
        assert answer.classifications[0].label == "good"
        assert answer.served.version == version.version
        assert answer.served.run_id == trained.run_id
        assert answer.served.snapshot_id == snapshot.snapshot_id
        assert answer.served.artifact_digest == version.artifact.digest
        lineage = served.lineage
        assert (lineage.dataset, lineage.dataset_number, lineage.recipe) == (DATASET, number, SPEC["recipe"])
        assert lineage.packages and lineage.hardware and "steps" in lineage.config
        invariants.check(world.blobs(), client, MODEL, DATASET, files=number)
        return int(version.version)
