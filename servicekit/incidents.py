"""Incidents: a lasting problem is logged when it begins, with each new text, and when it ends."""

import logging

log = logging.getLogger(__name__)

TEXTS_LOGGED = 5


class Incident:
    """The current problem of one component with what it depends on; `problem` is "" while there is none.

    However long an outage, it is few lines: at most TEXTS_LOGGED errors, each text once, and one line when it is resolved.
    """

    def __init__(self, component: str) -> None:
        self.component, self.problem = component, ""
        self._logged: set[str] = set()

    def report(self, problem: str) -> None:
        """Begin the incident, or update it: `problem` says what is wrong and what to do."""
        self.problem = problem
        if problem not in self._logged and len(self._logged) < TEXTS_LOGGED:
            self._logged.add(problem)
            log.error("dependency unavailable", extra={"component": self.component, "problem": problem})

    def resolve(self) -> None:
        """End the incident, if there is one."""
        if self.problem:
            log.info("dependency available again", extra={"component": self.component})
        self.problem = ""
        self._logged.clear()
