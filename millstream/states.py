"""Enum values: which states are final, and each value's name in lower case for people, logs and metrics."""

import re
from typing import Any

from millstream.dataset.v1.import_pb2 import Import
from millstream.training.v1.training_run_pb2 import TrainingRun

RUN_ENDED = (TrainingRun.STATE_SUCCEEDED, TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED)
RUN_ACTIVE = (TrainingRun.STATE_PENDING, TrainingRun.STATE_RUNNING)
IMPORT_ENDED = (Import.STATE_SUCCEEDED, Import.STATE_UNCHANGED, Import.STATE_REFUSED)


def word_of(enum: Any, value: int) -> str:
    """An enum value's name without its prefix: `TrainingRun.State`, STATE_RUNNING → running. Raises ValueError."""
    prefix = re.sub("(?<=.)(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper()
    return str(enum.Name(value)).removeprefix(f"{prefix}_").lower()
