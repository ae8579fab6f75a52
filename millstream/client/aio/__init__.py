"""The client for asyncio.

Methods return the platform's own messages and raise millstream.errors. Creates carry a request_id, so every call is
tried again by itself while a service is away for a moment. Listings walk through all pages.
"""

from millstream.client.aio.datasets import Datasets
from millstream.client.aio.evaluation import Reports
from millstream.client.aio.inference import Predictions
from millstream.client.aio.models import Models
from millstream.client.aio.operations import Operations
from millstream.client.aio.training import Training


class AsyncClient(Datasets, Training, Models, Reports, Predictions, Operations):
    """Calls the five services. An address is one `host:port`, or several with commas between, used in turn."""
