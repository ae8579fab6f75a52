"""The options of `python -m deploy.local`, and the platform that they and the environment describe."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.ports import MOST_REPLICAS, Ports, metrics_base_for
from deploy.local.supervisor import Child
from millstream.cli.local import READY_FILE
from millstream.defaults import METRICS_BASE, PORT_BASE, SERVICES
from servicekit.runtime.service_links import service_links
from services.trainer.launchers.worker_folder import WorkerFolder

PREFIX = "MILLSTREAM_"
BASE_VARIABLE = f"{PREFIX}PORT_BASE"
"""Read by this command and by the others, so that the ports need not be typed each time; no setting of a service."""
READY_SECONDS = 60.0


@dataclass(frozen=True)
class Platform:
    """What runs, and where its state is."""

    state: Path
    ports: Ports
    recipes: str = "recipes"
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        """The folder of the services' logs."""
        return self.state / "logs"

    @property
    def ready_file(self) -> Path:
        """Holds the addresses of all replicas while they serve, as the line `ready` does; the command line reads it."""
        return self.state / READY_FILE

    @property
    def workers(self) -> WorkerFolder:
        """The trainer's record of its worker processes."""
        return WorkerFolder(self.state / "trainer")

    def own_settings(self, service: str, replica: int) -> dict[str, str]:
        """The settings that make the services one platform. A child drops those that it does not declare (child.py)."""
        named = {
            "blobs": f"directory:{self.state / 'blobs'}",
            "bus": f"sqlite:{self.state / 'bus.sqlite'}",
            "state": str(self.state / service),
            "cache": str(self.state / "cache" / service),
            "recipes": self.recipes,
            "listen": self.ports.listen(service, replica),
            "metrics_listen": self.ports.metrics(service, replica),
            **self.ports.addresses(),
        }
        return {f"{PREFIX}{name.upper()}": value for name, value in named.items()}

    def children(self) -> list[Child]:
        """All replicas. They inherit the environment, but of the MILLSTREAM_ variables only `settings`."""
        passed_on = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return [
            Child(
                service,
                replica,
                {**passed_on, **self.own_settings(service, replica), **self.settings},
                self.logs / f"{service}-{replica}.log",
            )
            for replica in range(self.ports.replicas)
            for service in SERVICES
        ]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line; wrong usage is exit code 2."""
    parser = argparse.ArgumentParser(prog="millstream up", description="All five services on this machine.")
    parser.add_argument("--replicas", type=int, default=1, help=f"processes of each service, 1 to {MOST_REPLICAS} (1)")
    parser.add_argument(
        "--port-base",
        type=int,
        default=os.environ.get(BASE_VARIABLE) or PORT_BASE,
        help=f"service i, replica r listens on this + i + 10 r (MILLSTREAM_PORT_BASE, or {PORT_BASE})",
    )
    parser.add_argument("--metrics-base", type=int, help=f"the same for metrics ({METRICS_BASE}, or --port-base + 5)")
    parser.add_argument("--state", type=Path, default=Path(".millstream"), help="folder of all state (.millstream)")
    parser.add_argument(
        "--recipes", default="recipes", help="packages whose folders are recipes, with commas between (recipes)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, such as resync_seconds=1"
    )
    parser.add_argument("--ready-file", type=Path, help="write the addresses there, as JSON, once all serve")
    parser.add_argument(
        "--ready-seconds", type=float, default=READY_SECONDS, help="timeout until all services serve (60)"
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="end when the process that started this one has ended"
    )
    parser.add_argument("--verbose", action="store_true", help="show the services' logs")
    options = parser.parse_args(given)
    if not 1 <= options.replicas <= MOST_REPLICAS:
        parser.error(f"--replicas is {options.replicas}: 1 to {MOST_REPLICAS} fit between the ports")
    if wrong_port := platform_ports(options).out_of_range():
        parser.error(wrong_port)
    wrong = [text for text in options.set if "=" not in text]
    if wrong:
        parser.error(f"--set {wrong[0]}: write NAME=VALUE, such as resync_seconds=1")
    return options


def platform_ports(options: argparse.Namespace) -> Ports:
    """The ports of these options."""
    metrics = metrics_base_for(options.port_base) if options.metrics_base is None else options.metrics_base
    return Ports(options.port_base, metrics, options.replicas)


def platform_of(options: argparse.Namespace) -> Platform:
    """The platform of these options and of the environment; --set takes precedence. SystemExit for a wrong setting."""
    pairs = (text.split("=", 1) for text in options.set)
    given = {f"{PREFIX}{name.upper().removeprefix(PREFIX)}": value for name, value in pairs}
    not_ours = {BASE_VARIABLE, *service_links(os.environ, PREFIX)}
    named = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and name not in not_ours}
    return Platform(
        options.state.absolute(), platform_ports(options), options.recipes, check_settings({**named, **given})
    )


def check_settings(given: dict[str, str]) -> dict[str, str]:
    """Return the settings. SystemExit for one that no service has or that deploy.local sets, and for bad credentials."""
    if not given:
        return given
    import importlib

    from millstream.credentials import Credentials
    from millstream.errors import InvalidArgument

    known = {
        variable.name
        for service in SERVICES
        for variable in importlib.import_module(f"services.{service}.settings").Settings.variables()
    }
    ours = {f"{PREFIX}{name.upper()}" for name in ("listen", "metrics_listen", *SERVICES)}
    for name in sorted(given):
        if name in ours:
            raise SystemExit(f"deploy.local sets {name} itself, from --port-base and --replicas: leave it out")
        if name not in known:
            raise SystemExit(f"no service has the setting {name}; there are: {', '.join(sorted(known - ours))}")
    try:
        Credentials.from_env(given).ssl()
    except InvalidArgument as error:
        raise SystemExit(str(error)) from None
    return given
