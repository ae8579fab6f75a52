"""Which errors end a piece of work for good, and after how many tries (servicekit/README.md has the table)."""

from millstream import errors

MOST_TRIES: dict[type[BaseException], int] = {errors.NotFound: 10, errors.FailedPrecondition: 10}
"""Tries by class of error, for those that may pass by themselves."""
BUG_TRIES = 3
"""Tries for any other error that is neither final nor transient."""
_NEVER_FINAL = (
    errors.Conflict,
    errors.DataLoss,
    errors.DeadlineExceeded,
    errors.Overloaded,
    errors.PermissionDenied,
    errors.Unauthenticated,
    errors.Unavailable,
)


def is_final(error: BaseException, tries: int) -> bool:
    """Whether the work is given up after so many tries that ended with this class of error."""
    if isinstance(error, errors.InvalidArgument):
        return True
    # A token that a peer refuses is a fault of this platform's configuration; a damaged object is restored, an end is not.
    if isinstance(error, _NEVER_FINAL):
        return False
    return tries >= MOST_TRIES.get(type(error), BUG_TRIES)
