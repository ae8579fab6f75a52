"""A training run's config is checked when the run is created."""

import math
from typing import Any, cast

import pytest
from google.protobuf.json_format import ParseDict

from millstream.errors import FailedPrecondition, InvalidArgument
from millstream.training.v1.training_run_pb2 import TrainingRunSpec
from millstream.training.v1.training_service_pb2 import CreateTrainingRunRequest
from recipekit.catalog import Catalog
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.trainer.service import TrainingService
from services.trainer.store import FACTS, Store
from tests.unit.trainer.test_automatic import Dataprep, Registry
from tests.worlds.training import NoLauncher


def trainer(recipe: str = "toy_words") -> TrainingService:
    """A trainer with the toy recipe, and one model of the given recipe in the registry."""
    blobs = MemoryBlobs()
    store = Store(blobs, Outbox(blobs, MemoryBus(), "trainer", FACTS), 10)
    registry, dataprep = cast("Any", Registry(recipe=recipe)), cast("Any", Dataprep())
    return TrainingService(store, cast("Any", NoLauncher()), registry, dataprep, Catalog(["tests.recipes"]))


async def test_a_recipe_that_this_trainer_lacks_is_named() -> None:
    service = trainer(recipe="elsewhere")
    with pytest.raises(FailedPrecondition, match=r"elsewhere.*toy_words.*MILLSTREAM_RECIPES") as caught:
        await service.CreateTrainingRun(CreateTrainingRunRequest(spec=TrainingRunSpec(model="toy")))
    assert caught.value.field == "spec.recipe"
    assert not await service.store.index.newest_first()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"preset": "huge"}, "spec.preset"),
        ({"config": {"steps": -1}}, "spec.config.steps"),
        ({"config": {"no_such_field": 1}}, "spec.config.no_such_field"),
        ({"recipe": "elsewhere"}, "spec.recipe"),
        ({"time_limit": "0s"}, "spec.time_limit"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(change: dict[str, object], field: str) -> None:
    service = trainer()
    spec = ParseDict({"model": "toy", **change}, TrainingRunSpec())
    with pytest.raises(InvalidArgument) as caught:
        await service.CreateTrainingRun(CreateTrainingRunRequest(spec=spec))
    assert caught.value.field == field
    assert not await service.store.index.newest_first()


async def test_a_config_with_a_number_that_json_lacks_is_refused_by_its_place() -> None:
    service, spec = trainer(), ParseDict({"model": "toy", "config": {"steps": 5}}, TrainingRunSpec())
    spec.config.fields["steps"].number_value = math.nan
    with pytest.raises(InvalidArgument) as caught:
        await service.CreateTrainingRun(CreateTrainingRunRequest(spec=spec))
    assert caught.value.field == "spec.config.steps"
    assert not await service.store.index.newest_first()


async def test_a_run_with_a_fitting_config_is_created() -> None:
    spec = ParseDict({"model": "toy", "preset": "toy", "config": {"steps": 5}}, TrainingRunSpec())
    run = (await trainer().CreateTrainingRun(CreateTrainingRunRequest(spec=spec))).run
    assert (run.spec.preset, run.spec.config["steps"], run.spec.recipe) == ("toy", 5, "toy_words")


@pytest.mark.parametrize(("columns", "missing"), [(["text", "sentiment"], "label"), (["text", "label", "id"], "")])
async def test_a_snapshot_without_the_recipes_columns_is_refused(columns: list[str], missing: str) -> None:
    service = trainer()
    service.dataprep.columns = columns  # type: ignore[attr-defined]
    request = CreateTrainingRunRequest(spec=TrainingRunSpec(model="toy"))
    if not missing:
        await service.CreateTrainingRun(request)
        return
    with pytest.raises(FailedPrecondition) as caught:
        await service.CreateTrainingRun(request)
    assert f"has no {missing}, it has text, sentiment" in caught.value.text and caught.value.field == "spec.dataset"
    assert not await service.store.index.newest_first()
