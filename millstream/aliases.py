"""Which aliases of a model callers of inference can name."""

from millstream.defaults import CHAMPION
from millstream.registry.v1.model_pb2 import ModelSpec


def served_aliases(spec: ModelSpec) -> list[str]:
    """The aliases in serving.aliases; champion where there are none."""
    return list(spec.serving.aliases) or [CHAMPION]
