# Derived from aio/inference.py by `python tools/derive_client.py`: do not edit.
"""Predictions of served versions."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millstream.client.inputs import checked_candidates, checked_rows, checked_text, checked_texts
from millstream.client.shared import PAGE, WatchDeadline
from millstream.client.sync.connection import Connection
from millstream.client.sync.pages import pages
from millstream.defaults import CHAMPION
from millstream.errors import NotFound, Unavailable
from millstream.inference.v1 import inference_service_pb2 as inference
from millstream.inference.v1.prediction_pb2 import ServedModel
from millstream.inference.v1.refusal_pb2 import RefusalLift


class Predictions(Connection):
    """Calls inference. Each response names the version that answered in `served`.

    `alias` "" means champion. Texts and rows are lists: one str or one row in place of a list raises InvalidArgument, and
    nothing is sent. All raise NotFound for a model or alias that is not served, InvalidArgument for input that
    the recipe's schema does not allow or for more than 1024 rows, and FailedPrecondition where the recipe lacks the task.
    """

    def classify(self, model: str, texts: Sequence[str], alias: str = "") -> inference.ClassifyResponse:
        """A label for each text, with its confidence and all labels' scores (0 to 1), in the order of `texts`."""
        request = inference.ClassifyRequest(model=model, alias=alias, texts=checked_texts(texts))
        return self._inference.Classify(request)

    def embed(self, model: str, texts: Sequence[str], alias: str = "") -> inference.EmbedResponse:
        """A vector for each text, in the order of `texts`; all of one length."""
        request = inference.EmbedRequest(model=model, alias=alias, texts=checked_texts(texts))
        return self._inference.Embed(request)

    def similar(
        self, model: str, text: str, *, limit: int = 0, label: str = "", alias: str = ""
    ) -> inference.SimilarResponse:
        """The nearest entries of the model's own index, by cosine similarity (-1 to 1), nearest first.

        `limit` 0: 10 of them. `label` "": entries of every label. In `row` every number is a double; `row_json` is exact.
        """
        asked = checked_text(text, "text")
        request = inference.SimilarRequest(model=model, alias=alias, text=asked, limit=limit, label=label)
        return self._inference.Similar(request)

    def rank(
        self, model: str, candidates: Mapping[str, Sequence[str]], label: str, alias: str = ""
    ) -> inference.RankResponse:
        """Candidates, given as {id: its texts}, by their mean probability of the label (0 to 1), best first."""
        asked = [inference.Candidate(id=name, texts=texts) for name, texts in checked_candidates(candidates).items()]
        request = inference.RankRequest(model=model, alias=alias, candidates=asked, label=label)
        return self._inference.Rank(request)

    def predict(
        self,
        model: str,
        rows: Sequence[Mapping[str, Any]],
        alias: str = "",
    ) -> inference.PredictResponse:
        """Predictions of any recipe: rows by its input schema in, predictions by its output schema out, in order."""
        request = inference.PredictRequest(model=model, alias=alias, rows=checked_rows(rows))
        return self._inference.Predict(request)

    def served(self, model: str = "") -> Iterator[ServedModel]:
        """What is loaded now, with its lineage. `model` "": of every model.

        Each replica answers for itself; with several addresses the pages may come from different replicas.
        """
        request = inference.ListServedModelsRequest(model=model, page_size=PAGE)
        for page in pages(self._inference.ListServedModels, request):
            yield from page.models

    def load_problems(self, model: str = "") -> Iterator[inference.LoadProblem]:
        """The aliases that a replica does not serve by the version that they name, and why. `model` "": of every model.

        Each replica answers for itself, as in served().
        """
        request = inference.ListLoadProblemsRequest(model=model, page_size=PAGE)
        for page in pages(self._inference.ListLoadProblems, request):
            yield from page.problems

    def retry_version(self, model: str, version: int, note: str = "") -> RefusalLift:
        """Let every replica try to load a version again that is refused or that could not be loaded; `note` is kept.

        Needs the role operator. The replica that answers tries at once, the others within their resync interval.
        """
        request = inference.RetryModelVersionRequest(model=model, version=version, note=note)
        return (self._inference.RetryModelVersion(request)).lift

    def wait_served(
        self, model: str, version: int, *, alias: str = CHAMPION, timeout: float | None = None
    ) -> ServedModel:
        """What serves the alias, once that is this version or a later one. Polls; a model not yet served is waited for.

        `timeout` is in seconds, None: no limit. Raises DeadlineExceeded after it, and Unavailable after 30 s without an
        answer.
        """
        deadline = WatchDeadline(timeout, f"{alias} of {model} does not serve version {version}")
        while True:
            try:
                for found in self.served(model):
                    if found.served.alias == alias and found.served.version >= version:
                        return found
                time.sleep(deadline.backoff())
            except NotFound:
                time.sleep(deadline.backoff())
            except Unavailable as error:
                time.sleep(deadline.backoff(error))
