# Derived from aio/__init__.py by `python tools/derive_client.py`: do not edit.
"""The client for threads.

Methods return the platform's own messages and raise millstream.errors. Creates carry a request_id, so every call is
tried again by itself while a service is away for a moment. Listings walk through all pages.
"""

from millstream.client.sync.datasets import Datasets
from millstream.client.sync.evaluation import Reports
from millstream.client.sync.inference import Predictions
from millstream.client.sync.models import Models
from millstream.client.sync.operations import Operations
from millstream.client.sync.training import Training


class Client(Datasets, Training, Models, Reports, Predictions, Operations):
    """Calls the five services. An address is one `host:port`, or several with commas between, used in turn."""
