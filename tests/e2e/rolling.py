"""Services of two commits on one store and one bus: each replica is started from the tree that the test names."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local import workers
from deploy.local.health import serving
from deploy.local.options import PREFIX, Platform
from millstream import Client
from millstream.defaults import SERVICES
from tests.worlds.platform import READY_SECONDS, RECIPES, ROOT, STOP_SECONDS, World


class NoHistory(Exception):
    """There is no earlier commit here; the text says why."""


@dataclass(frozen=True)
class Tree:
    """The code of one commit, or of this checkout as it is."""

    folder: Path
    commit: str


def previous(folder: Path) -> Tree:
    """The newest release before this checkout, or the commit that TEST_PREVIOUS names. Raises NoHistory.

    Before the first release nothing stored is promised to later code (docs/adr/0014): then it is this checkout's commit
    under another id, so that the test can tell the two apart.
    """
    given = os.environ.get("TEST_PREVIOUS") or _git("describe", "--tags", "--abbrev=0", "--match=v*", "--always")
    commit = _git("rev-parse", "--verify", f"{given}^{{commit}}")
    _git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
    _git("-C", str(folder), "checkout", "--quiet", "--detach", commit)
    if commit == _git("rev-parse", "HEAD"):
        committer = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        _git("-C", str(folder), *committer, "commit", "--quiet", "--allow-empty", "--message=the same code")
        commit = _git("-C", str(folder), "rev-parse", "HEAD")
    return Tree(folder, commit)


def here() -> Tree:
    """This checkout, with its uncommitted changes."""
    return Tree(ROOT, _git("rev-parse", "HEAD"))


def _git(*words: str) -> str:
    done = _run(*words)
    if done.returncode:
        raise NoHistory(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise NoHistory("there is no git here") from None


@dataclass
class Fleet(World):
    """A world whose replicas start and stop one by one. Its addresses are those of the replicas that run."""

    old: Tree = field(kw_only=True)
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def addresses(self) -> dict[str, str]:
        return {service: ",".join(self._addresses_of(service)) for service in SERVICES}

    def run(self, tree: Tree, replica: int, *services: str) -> None:
        """Start a replica of each of these services from a tree, and return when all serve.

        Every service has the addresses of both replicas of the others, running or not.
        """
        for service in services:
            child = next(c for c in self._platform().children() if (c.service, c.replica) == (service, replica))
            child.log.parent.mkdir(parents=True, exist_ok=True)
            with child.log.open("ab") as log:
                # Both precede the installed package: the folder by `python -m`, PYTHONPATH also for workers.
                self.running[service, replica] = subprocess.Popen(
                    [sys.executable, "-m", "deploy.local.child", service, str(os.getpid())],
                    cwd=tree.folder, env={**child.environment, "PYTHONPATH": str(tree.folder)}, stdout=log, stderr=log,
                )  # fmt: skip
        for service in services:
            address, process = self.ports.listen(service, replica), self.running[service, replica]
            assert asyncio.run(_serves(address, process)), f"{service} of {tree.commit} does not serve:\n{self.tails()}"
            self._check_code(service, address, tree)

    def end(self, service: str, replica: int) -> None:
        """Stop a replica by SIGTERM; it must end with exit code 0."""
        process = self.running.pop((service, replica))
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_SECONDS)
        assert code == 0, f"{service}-{replica} ended with {code}:\n{self.tails()}"

    def end_all(self) -> None:
        """Stop all replicas and workers."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()
        asyncio.run(workers.stop(self.workers, STOP_SECONDS))

    def _check_code(self, service: str, address: str, tree: Tree) -> None:
        """The replica runs the tree's code: a service reports the commit that its modules were imported from."""
        with Client(credentials=self.credentials, **{service: address}) as client:
            found = client.status(service)
        is_old = (found.commit, found.dirty) == (self.old.commit, False)
        assert is_old == (tree == self.old), f"{service} was started from {tree} and runs other code: {found}"

    def _addresses_of(self, service: str) -> list[str]:
        return [self.ports.listen(*place) for place in sorted(self.running) if place[0] == service]

    def _platform(self) -> Platform:
        settings = {f"{PREFIX}{name.upper()}": value for name, value in self.settings.items()}
        return Platform(self.state, self.ports, RECIPES, settings)


async def _serves(address: str, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the process serves before it ends or times out."""
    waiting = asyncio.create_task(serving(address, {}))
    deadline = time.monotonic() + READY_SECONDS
    while not waiting.done() and process.poll() is None and time.monotonic() < deadline:
        await asyncio.wait([waiting], timeout=0.1)
    return waiting.done() or not waiting.cancel()
