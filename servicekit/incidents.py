"""Incidents: a problem that lasts is logged when it begins, with each new text, and when it is over."""

import logging

log = logging.getLogger(__name__)

TEXTS_TOLD = 5


class Incident:
    """Something that ought to be in order. Logged when it begins not to be, with each new text, and when it is again."""

    def __init__(self, what: str) -> None:
        self.what, self.text = what, ""
        self._told: set[str] = set()

    def begin(self, text: str) -> None:
        self.text = text
        if text not in self._told and len(self._told) < TEXTS_TOLD:
            self._told.add(text)
            log.error("not in order", extra={"part": self.what, "problem": text})

    def over(self) -> None:
        if self.text:
            log.info("in order again", extra={"part": self.what})
        self.text = ""
        self._told.clear()
