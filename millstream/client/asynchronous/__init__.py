"""The client for asyncio.

Methods return the platform's own messages and raise millstream.errors. Creates carry a request_id, so every call is
tried again by itself while a service is away for a moment. Listings walk through all pages.
"""

from millstream.client.asynchronous.datasets import Datasets
from millstream.client.asynchronous.evaluation import Reports
from millstream.client.asynchronous.inference import Predictions
from millstream.client.asynchronous.models import Models
from millstream.client.asynchronous.operations import Operations
from millstream.client.asynchronous.training import Training


class AsyncClient(Datasets, Training, Models, Reports, Predictions, Operations):
    """Calls the five services. An address is one `host:port`, or several with commas between, used in turn."""
