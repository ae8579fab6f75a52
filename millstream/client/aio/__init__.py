"""The client for asyncio.

Methods return the platform's protobuf messages and raise the classes of millstream.errors. Listings walk all pages.
"""

from millstream.client.aio.datasets import Datasets
from millstream.client.aio.evaluation import Reports
from millstream.client.aio.inference import Predictions
from millstream.client.aio.models import Models
from millstream.client.aio.operations import Operations
from millstream.client.aio.training import Training


class AsyncClient(Datasets, Training, Models, Reports, Predictions, Operations):
    """Calls the five services.

    Every call is retried while a service is unavailable: five attempts with exponential backoff, 0.1 to 1 s. That is safe,
    because a call that creates something carries a request_id: the same id again gives the same answer.
    A call that is not a stream times out after 30 s.

    Any method may raise `Unavailable` (no answer, after all retries), `DeadlineExceeded`, `Unauthenticated` (no valid
    token), `PermissionDenied` (the token's role does not allow the call), `Overloaded` (retry after `retry_after`
    seconds) and `DataLoss` (a stored object is damaged; `metadata["key"]` names it). The docstrings name only what comes
    besides. A name that does not exist raises `NotFound`.
    """
