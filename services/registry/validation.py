"""Checks a model's spec before it is accepted: its recipe must know every preset, config field and metric in it."""

from millstream.errors import InvalidArgument
from millstream.registry.v1.model_pb2 import ModelSpec
from recipekit.catalog import Catalog
from recipekit.spec import BadConfig
from servicekit.ids import check_name
from servicekit.limits import GATE_RULES, SERVED_ALIASES, check_count, check_spec_size
from servicekit.structs import mapping_of


def check_spec(spec: ModelSpec, catalog: Catalog) -> None:
    """Raise InvalidArgument for the first field that is wrong, with its path in `field`."""
    check_spec_size(spec)
    check_count(len(spec.gate), GATE_RULES, "spec.gate")
    check_count(len(spec.serving.aliases), SERVED_ALIASES, "spec.serving.aliases")
    check_name(spec.model, "spec.model")
    check_name(spec.dataset, "spec.dataset")
    try:
        catalog.configure(spec.recipe, spec.preset, mapping_of(spec.config, "spec.config"))
    except BadConfig as error:
        raise InvalidArgument(f"spec.{error}", field=f"spec.{error.field}") from None
    known = [metric.name for metric in catalog.spec(spec.recipe).metrics]
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
        text = "spec.training.resources.nodes is above 1, which needs GPUs: set spec.training.resources.gpus"
        raise InvalidArgument(text, field="spec.training.resources.nodes")
