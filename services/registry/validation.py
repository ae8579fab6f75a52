"""Checks a model's spec before it is accepted: everything that it names must make sense to its recipe."""

from google.protobuf.json_format import MessageToDict
from pydantic import ValidationError

from millstream.errors import InvalidArgument
from millstream.registry.v1.model_pb2 import ModelSpec
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.spec import Spec
from servicekit.ids import check_name


def check_spec(spec: ModelSpec, catalog: Catalog) -> None:
    """Raises InvalidArgument that names the first field which is wrong."""
    check_name(spec.model, "spec.model")
    check_name(spec.dataset, "spec.dataset")
    try:
        recipe = catalog.spec(spec.recipe)
    except UnknownRecipe as error:
        raise InvalidArgument(str(error), field="spec.recipe") from None
    check_config(spec, recipe)
    known = [metric.name for metric in recipe.metrics]
    for number, rule in enumerate(spec.gate):
        if rule.metric not in known:
            text = f"spec.gate[{number}].metric is {rule.metric!r}; {spec.recipe} has: {', '.join(known)}"
            raise InvalidArgument(text, field=f"spec.gate[{number}].metric")
    for number, alias in enumerate(spec.serving.aliases):
        check_name(alias, f"spec.serving.aliases[{number}]")
    for name in ("time_limit", "minimum_interval"):
        if spec.training.HasField(name) and getattr(spec.training, name).ToNanoseconds() <= 0:
            raise InvalidArgument(f"spec.training.{name} must be above 0 s", field=f"spec.training.{name}")
    if spec.training.resources.nodes > 1 and not spec.training.resources.gpus:
        raise InvalidArgument("several nodes need GPUs: set resources.gpus", field="spec.training.resources.nodes")


def check_config(spec: ModelSpec, recipe: Spec) -> None:
    try:
        recipe.configure(spec.preset, MessageToDict(spec.config))
    except KeyError:
        text = f"spec.preset is {spec.preset!r}; {spec.recipe} has: {', '.join(recipe.presets)}"
        raise InvalidArgument(text, field="spec.preset") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = f"spec.config.{'.'.join(map(str, first['loc']))}"
        raise InvalidArgument(f"{field}: {first['msg']}", field=field) from None
