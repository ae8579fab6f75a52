# Derived from aio/inference.py by `python tools/derive_client.py`: do not edit.
"""Versions answer."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millstream.client.shared import PAGE, Patience, struct
from millstream.client.sync.connection import Connection
from millstream.client.sync.pages import pages
from millstream.defaults import CHAMPION
from millstream.errors import NotFound, Unavailable
from millstream.inference.v1 import inference_service_pb2 as inference
from millstream.inference.v1.prediction_pb2 import ServedModel


class Predictions(Connection):
    """Calls inference."""

    def classify(self, model: str, texts: Sequence[str], alias: str = "") -> inference.ClassifyResponse:
        """A label with its confidence for each text, and what answered."""
        return self._inference.Classify(inference.ClassifyRequest(model=model, alias=alias, texts=texts))

    def embed(self, model: str, texts: Sequence[str], alias: str = "") -> inference.EmbedResponse:
        return self._inference.Embed(inference.EmbedRequest(model=model, alias=alias, texts=texts))

    def similar(
        self, model: str, text: str, *, limit: int = 0, label: str = "", alias: str = ""
    ) -> inference.SimilarResponse:
        """Entries of the model's own index that are nearest to the text (0: 10 of them)."""
        request = inference.SimilarRequest(model=model, alias=alias, text=text, limit=limit, label=label)
        return self._inference.Similar(request)

    def rank(
        self, model: str, candidates: Mapping[str, Sequence[str]], label: str, alias: str = ""
    ) -> inference.RankResponse:
        """Candidates, given as {id: its texts}, by the mean probability of the label, best first."""
        asked = [inference.Candidate(id=name, texts=texts) for name, texts in candidates.items()]
        request = inference.RankRequest(model=model, alias=alias, candidates=asked, label=label)
        return self._inference.Rank(request)

    def predict(
        self,
        model: str,
        rows: Sequence[Mapping[str, Any]],
        alias: str = "",
    ) -> inference.PredictResponse:
        """Any recipe: rows by its input schema, predictions by its output schema."""
        request = inference.PredictRequest(model=model, alias=alias, rows=[struct(row) for row in rows])
        return self._inference.Predict(request)

    def served(self, model: str = "") -> Iterator[ServedModel]:
        """What is loaded now and where it comes from."""
        request = inference.ListServedModelsRequest(model=model, page_size=PAGE)
        for page in pages(self._inference.ListServedModels, request):
            yield from page.models

    def wait_served(
        self, model: str, version: int, *, alias: str = CHAMPION, timeout: float | None = None
    ) -> ServedModel:
        """What serves the alias, once that is this version or a later one. Raises DeadlineExceeded."""
        patience = Patience(timeout, f"{model} version {version} as {alias}")
        while True:
            try:
                for found in self.served(model):
                    if found.served.alias == alias and found.served.version >= version:
                        return found
                time.sleep(patience.pause())
            except NotFound:
                time.sleep(patience.pause())
            except Unavailable as error:
                time.sleep(patience.pause(error))
