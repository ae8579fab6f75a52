# Derived from asynchronous/__init__.py by `python millstream/client/derive.py`: do not edit.
"""The client for threads.

Methods return the platform's own messages and raise millstream.errors. Creates carry a request_id, so every call is
tried again by itself while a service is away for a moment. Listings walk through all pages.
"""

from millstream.client.blocking.datasets import Datasets
from millstream.client.blocking.evaluation import Reports
from millstream.client.blocking.inference import Predictions
from millstream.client.blocking.models import Models
from millstream.client.blocking.operations import Operations
from millstream.client.blocking.training import Training


class Client(Datasets, Training, Models, Reports, Predictions, Operations):
    """Calls the five services. An address is one `host:port`, or several with commas between, used in turn."""
