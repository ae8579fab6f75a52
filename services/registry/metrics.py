"""Metrics of the registry."""

from prometheus_client import Counter

VERSIONS = Counter("millstream_registry_versions_registered", "Model versions registered by this replica.", ("model",))
MOVES = Counter(
    "millstream_registry_alias_moves", "Entries that this replica added to alias ledgers.", ("model", "action")
)
