"""Plans and their records: no platform runs here."""

import importlib
from collections import Counter
from pathlib import Path

from bench.chaos.results import Results, table
from millstream.defaults import is_event, topic_of
from tests.chaos.plan import KINDS, OUTAGE, RUNS_OF_A_SEED, Plan, covering, pairs, plan
from tests.chaos.probes import TOPICS
from tests.chaos.run import Hit, Record

WORLD = "kafka-minio"
HUNDRED = range(RUNS_OF_A_SEED, RUNS_OF_A_SEED + 100)


def test_a_seed_gives_the_same_plan_and_a_record_repeats_it() -> None:
    first = plan(1007, WORLD, Counter())
    assert plan(1007, WORLD, Counter()) == first != plan(1008, WORLD, Counter())
    assert Plan.from_dict(first.to_dict()) == first


def test_the_first_fault_is_aimed_at_what_was_hit_least() -> None:
    hits = Counter(dict.fromkeys(pairs(WORLD), 2))
    for aimed in (("promote", "bus wiped"), ("served", "kill inference")):
        hits[aimed] = 1
        aim = plan(1000, WORLD, hits).aims[0]
        assert aim.kind == aimed[1]
        assert aim.after.startswith("outbox.models-aliases.") if aimed[0] == "promote" else aim.after == ""
        hits[aimed] = 2


def test_of_a_hundred_runs_ten_have_an_outage_and_half_have_two_replicas() -> None:
    plans = [plan(seed, WORLD, Counter(), KINDS[WORLD]) for seed in HUNDRED]
    assert [sum(aim.kind == OUTAGE for aim in each.aims) for each in plans].count(1) == 10
    assert {aim.lasts for each in plans for aim in each.aims if aim.kind == OUTAGE} == {60.0}
    assert sum(each.replicas == 2 for each in plans) == 50
    assert sum(each.bus == "duplicating" for each in plans) == 50
    assert all(len(each.aims) == 3 for each in plans)


def test_each_kind_of_fault_is_covered_once() -> None:
    for world, more in (("local", []), (WORLD, [OUTAGE])):
        kinds = [aim.kind for each in covering(1, world, 10.0) for aim in each.aims]
        assert sorted(kinds) == sorted([*KINDS[world], *more])


def test_the_probes_reach_every_topic_that_a_service_reads() -> None:
    for service, topics in TOPICS.items():
        handlers = importlib.import_module(f"services.{service}.handlers").HANDLERS
        assert {topic_of(event.DESCRIPTOR.full_name).name for event in handlers if is_event(event)} == set(topics)


def test_a_repeated_seed_replaces_its_record(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    bad = record(1000, stuck=["at train: still without a run that succeeded"])
    for each in (bad, record(1001), record(1000)):
        Results(file, WORLD).add({"world": WORLD, **each.to_dict()})
    Results(file, "local").add({"world": "local", **record(1000).to_dict()})
    results = Results(file, WORLD)
    assert sorted(results.records) == [1000, 1001] and results.records[1000]["stuck"] == []
    assert results.hits() == {("train", "kill worker"): 2}
    shown = table(file)
    assert "2 runs" in shown and "0 lost, 0 doubled, 0 stuck" in shown and "## local" in shown


def record(seed: int, stuck: list[str] | None = None) -> Record:
    hits = [Hit("kill worker", "train", "worker.trained", 1.0, 0.4)]
    return Record(seed, plan(seed, WORLD, Counter()).to_dict(), seconds=5.0, hits=hits, stuck=stuck or [])
