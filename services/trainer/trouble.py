"""Which errors say nothing about the run: the store, the disk or a device is in trouble, and an attempt may pass later."""

from millstream import errors
from recipekit.machine import tells_of_system

_ERRORS = (
    errors.Unavailable,
    errors.Overloaded,
    errors.DeadlineExceeded,
    errors.Conflict,
    errors.DataLoss,
    errors.Unauthenticated,
    errors.PermissionDenied,
    ConnectionError,
    TimeoutError,
)
_DEVICE = ("busy or unavailable", "ecc error", "no cuda-capable device", "cuda driver", "cuda unknown error")
"""Parts of torch's texts for a device that cannot be used. It has no classes for them."""


def is_trouble(error: BaseException) -> bool:
    """Whether the attempt ended for a reason outside the run."""
    if tells_of_system(error):
        return True
    if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _DEVICE):
        return True
    return isinstance(error, _ERRORS)
