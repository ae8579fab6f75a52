"""The index of runs: each once, in the order of their requests, and the newest automatic one of a model."""

from google.protobuf.timestamp_pb2 import Timestamp

from millstream.training.v1.attempt_pb2 import IndexedRun, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from servicekit.facts.ledger import Ledger
from services.trainer.run_index import RunIndex


def run(run_id: str, snapshot: int, second: int, *, automatic: bool = True) -> RunRequest:
    spec = TrainingRunSpec(model="toy", dataset_number=snapshot)
    return RunRequest(
        run_id=run_id, spec=spec, time=Timestamp(seconds=second), automatic=automatic, model_spec_number=1
    )


async def test_the_interval_counts_from_the_newest_request_also_of_a_replica_whose_clock_is_behind() -> None:
    index = RunIndex(MemoryBlobs())
    for each in (run("older", 1, second=100), run("newer", 2, second=50)):
        await index.add(each)
    newest = await index.newest_automatic("toy")
    assert (newest.run_id, newest.time) == ("newer", 100)


async def test_a_run_that_a_caller_requested_is_no_automatic_one() -> None:
    """It would supersede the automatic run of an older snapshot, and begin the interval anew."""
    index = RunIndex(MemoryBlobs())
    for each in (run("automatic", 1, second=100), run("by-hand", 2, second=200, automatic=False)):
        await index.add(each)
    assert list(await index.newest_first("toy")) == ["by-hand", "automatic"]
    newest = await index.newest_automatic("toy")
    assert (newest.run_id, newest.time) == ("automatic", 100)


async def test_of_two_runs_on_one_snapshot_the_first_stays_the_newest() -> None:
    index = RunIndex(MemoryBlobs())
    for each in (run("first", 1, second=100), run("again", 1, second=200)):
        await index.add(each)
    assert (await index.newest_automatic("toy")).run_id == "first"


async def test_a_run_that_was_added_twice_is_listed_once() -> None:
    """As after an entry that was damaged when the run was added again."""
    blobs = MemoryBlobs()
    ledger = Ledger(blobs, "runs/index", IndexedRun, small=True)
    for request_id in ("one", "two"):
        await ledger.append(IndexedRun(run_id="run-1", model="toy"), request_id=request_id)
    assert list(await RunIndex(blobs).newest_first()) == ["run-1"]
