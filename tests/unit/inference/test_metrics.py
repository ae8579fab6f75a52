"""The metrics of one request, as Prometheus would scrape them."""

from prometheus_client import REGISTRY, generate_latest

from services.inference import metrics
from tests.unit.inference.test_batcher import Slow, ask, running

PHASES = ("prepare_seconds", "queue_seconds", "infer_seconds")


def value(name: str) -> float:
    return REGISTRY.get_sample_value(f"millstream_inference_{name}", {"model": "m"}) or 0.0


async def test_a_request_is_counted_once_in_each_phase_and_its_batch_with_padding() -> None:
    before = {phase: value(f"{phase}_count") for phase in PHASES}
    rows, tokens = value("batch_rows_sum"), value("batch_tokens_sum")
    async with running(Slow()) as batcher:
        await ask(batcher, "one two three", "one")
    assert {phase: value(f"{phase}_count") - before[phase] for phase in PHASES} == dict.fromkeys(PHASES, 1)
    assert value("batch_rows_sum") - rows == 2
    assert value("batch_tokens_sum") - tokens == 6, "the second row is padded to the first"


def test_every_metric_is_named_for_the_service_and_by_model() -> None:
    found = [metric for metric in vars(metrics).values() if hasattr(metric, "_labelnames")]
    assert len(found) > 10
    for metric in found:
        assert metric._name.startswith("millstream_inference_") and metric._labelnames[0] == "model"
    metrics.REFUSED.labels("m", "overloaded")
    assert b'millstream_inference_requests_refused_total{model="m",reason="overloaded"}' in generate_latest()
