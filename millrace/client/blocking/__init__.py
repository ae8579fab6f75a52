# Derived from asynchronous/__init__.py by `python millrace/client/derive.py`: do not edit.
"""The client for threads.

Methods return the platform's own messages and raise millrace.errors. Creates carry a request_id, so every call is
tried again by itself while a service is away for a moment. Listings walk through all pages.
"""

from millrace.client.blocking.datasets import Datasets
from millrace.client.blocking.evaluation import Reports
from millrace.client.blocking.inference import Predictions
from millrace.client.blocking.models import Models
from millrace.client.blocking.operations import Operations
from millrace.client.blocking.training import Training


class Client(Datasets, Training, Models, Reports, Predictions, Operations):
    """Calls the five services. An address is one `host:port`, or several with commas between, used in turn."""
