"""The work that each fact queues."""

from millstream.dataset.v1.import_pb2 import Import
from servicekit.work.keys import Handlers
from services.dataprep.reconcile import ImportKey

HANDLERS: Handlers = {Import: lambda recorded: [ImportKey(recorded.dataset, recorded.request_id)]}
