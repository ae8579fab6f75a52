"""The client for asyncio.

Methods return the platform's own messages and raise millrace.errors. Creates carry a request_id, so every call is
tried again by itself while a service is away for a moment. Listings walk through all pages.
"""

from millrace.client.asynchronous.datasets import Datasets
from millrace.client.asynchronous.evaluation import Reports
from millrace.client.asynchronous.inference import Predictions
from millrace.client.asynchronous.models import Models
from millrace.client.asynchronous.operations import Operations
from millrace.client.asynchronous.training import Training


class AsyncClient(Datasets, Training, Models, Reports, Predictions, Operations):
    """Calls the five services. An address is one `host:port`, or several with commas between, used in turn."""
