"""Which errors say nothing about the run: the store, the disk or a device is in trouble, and an attempt may pass later."""

import errno

from millstream import errors

_ERRORS = (
    errors.Unavailable,
    errors.Overloaded,
    errors.DeadlineExceeded,
    errors.Conflict,
    errors.Unauthenticated,
    errors.PermissionDenied,
    ConnectionError,
    TimeoutError,
)
_NUMBERS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_DEVICE = ("busy or unavailable", "ecc error", "no cuda-capable device", "cuda driver", "cuda unknown error")
"""Parts of torch's texts for a device that cannot be used. It has no classes for them."""


def is_trouble(error: BaseException) -> bool:
    """Whether the attempt ended for a reason outside the run."""
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _DEVICE):
        return True
    return isinstance(error, _ERRORS)
