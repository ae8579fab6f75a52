"""Writes docs/configuration.md and docs/metrics.md from the code, or proves that they are fresh.

`python tools/generate_docs.py` writes them; with `--check` it changes nothing and fails where a page is stale.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOUSE))

from prometheus_client.metrics import MetricWrapperBase  # noqa: E402  (the root must be importable first)

from millstream.defaults import SERVICES  # noqa: E402
from servicekit.runtime.settings import Settings, Variable  # noqa: E402

CONFIGURATION = """# Configuration

Written by `make docs` from the services' `settings.py`: do not edit. Every setting is an environment variable with the
prefix `MILLSTREAM_`, read once at start. `millstream up --set NAME=VALUE` takes the name without the prefix, in either case.
An unknown `MILLSTREAM_` variable ends a service at once, with the list of those that it reads. `python -m services.NAME
--check` prints the values that a service would run with. Secrets are in files, which variables name.

Kubernetes gives a pod variables for each Service of its namespace: `MILLSTREAM_REGISTRY_PORT=tcp://10.0.0.1:50054` and those
beside it, for one named `millstream-registry`. A service ignores them, and logs their names once.
"""
METRICS = """# Metrics

Written by `make docs` from the `metrics.py` files: do not edit. Prometheus scrapes them at `MILLSTREAM_METRICS_LISTEN`
(9101 to 9105 here). A counter's name ends in `_total` when it is scraped, a histogram's in `_bucket`, `_sum` and `_count`.
Labels come from closed sets, except `model`, whose values are the declared models.
"""


def pages() -> dict[Path, str]:
    """The text of each generated page."""
    return {HOUSE / "docs/configuration.md": configuration(), HOUSE / "docs/metrics.md": metrics()}


def configuration() -> str:
    """The page of settings: those of all services, then those that each service adds or changes."""
    common = {variable.name for variable in Settings.variables()}
    parts = [CONFIGURATION, "## Every service\n", *_settings(Settings.variables())]
    owners = [*((name, f"services.{name}.settings", "Settings") for name in SERVICES)]
    owners.append(("The training worker", "services.trainer.worker.settings", "WorkerSettings"))
    for title, module, kind in owners:
        own: type[Settings] = getattr(importlib.import_module(module), kind)
        added = [variable for variable in own.variables() if variable.name not in common or _is_changed(variable)]
        parts += [f"\n## {title}\n", *_settings(added)]
    return "\n".join(parts) + "\n"


def _is_changed(variable: Variable) -> bool:
    """Whether a service has another default than all services."""
    (common,) = (each for each in Settings.variables() if each.name == variable.name)
    return bool(common.field.default != variable.field.default)


def _settings(variables: list[Variable]) -> Iterator[str]:
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    for variable in variables:
        yield f"| `{variable.name}` | {_code(variable.field.default)} | {_cell(str(variable.field.description))} |"


def metrics() -> str:
    """The page of metrics: those of all services, then those that each service adds."""
    parts = [METRICS, "## Every service\n", *_metrics("servicekit.metrics")]
    for service in SERVICES:
        parts += [f"\n## {service}\n", *_metrics(f"services.{service}.metrics")]
    return "\n".join(parts) + "\n"


def _metrics(module: str) -> Iterator[str]:
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    found: list[Any] = list(vars(importlib.import_module(module)).values())
    for metric in found:
        if isinstance(metric, MetricWrapperBase):
            labels = ", ".join(metric._labelnames)
            yield f"| `{metric._name}` | {metric._type} | {labels} | {_cell(metric._documentation)} |"


def _code(value: object) -> str:
    return "" if value in ("", None) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write or check; exit code 1 if a check fails."""
    parser = argparse.ArgumentParser(description="Writes docs/configuration.md and docs/metrics.md from the code.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is stale")
    stale = {path: text for path, text in pages().items() if not path.exists() or path.read_text() != text}
    if parser.parse_args().check:
        for path in stale:
            print(f"{path.relative_to(HOUSE)} is stale: run `make docs` and commit it.", file=sys.stderr)
        return bool(stale)
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
