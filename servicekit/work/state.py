"""What the queue knows of a key."""

import math
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class State:
    """What is known of a key between two reconciles."""

    failures: Counter[type[BaseException]] = field(default_factory=Counter)
    """By class, since the last success: so an outage does not count towards the tries of another error."""
    end_failures: Counter[type[BaseException]] = field(default_factory=Counter)
    """By class, of end() since it was first needed."""
    queued: bool = False
    running: bool = False
    added_meanwhile: bool = False
    """Added while it was being reconciled."""
    due: float = math.inf
    """When to queue it, on the monotonic clock; inf: no delay runs."""
    is_settled: bool = True
    """The last reconcile found nothing left to do, or its failure was recorded."""
    trace: str = ""
    """The traceparent of the newest event that gave the key."""
