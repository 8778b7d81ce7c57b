"""What ends a run or a unit: exit codes, the error to stop on, our own bugs, and errors as one line."""

from __future__ import annotations

import errno
import re
import traceback

from diffstyle.errors import DiffStyleError

#: Exit codes, for schedulers. 0: all done. 1: a bug. 2: wrong input, nothing to gain from running it again unchanged.
#: 3: done, with failures that the manifest names. 4: stopped, and the same command goes on from there.
EXIT_DONE, EXIT_BUG, EXIT_WRONG_INPUT, EXIT_FAILURES, EXIT_STOPPED = range(5)

#: What only a mistake in the code raises. Never a reason to reject a picture or to fail a pair: later runs would skip
#: what nothing is wrong with.
BUGS = (TypeError, AttributeError, NameError, ImportError, AssertionError)


class BugError(Exception):
    """A mistake in the code, met in a worker. It ends the run; its text is the worker's traceback.

    Not a DiffStyleError: there is nothing that a user could do about it but report it.
    """


class Stopped(DiffStyleError):
    """The run can't go on (disk full, credentials lost, workers that die at start) but can be resumed."""

    exit_code = EXIT_STOPPED


def one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(text.splitlines()[-1 if "Traceback" in text else 0].split())[:300]


_NO_USE_GOING_ON = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
# How object stores, through Arrow, say that the rights are gone.
_NO_RIGHTS = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|EXPIRED_?TOKEN|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID"
    "|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT|REQUEST_EXPIRED|InvalidAccessKeyId|SignatureDoesNotMatch",
    re.IGNORECASE,
)


def fatal(error: BaseException) -> DiffStyleError | BugError | None:
    """The error to stop the whole run with, or None if only the unit is concerned."""
    if isinstance(error, DiffStyleError | BugError):
        return error
    if isinstance(error, BUGS):
        return BugError("".join(traceback.format_exception(error))[-8000:].rstrip())
    if not isinstance(error, OSError):
        return None
    kept = "what was committed is kept"
    if error.errno in _NO_USE_GOING_ON:
        where = f" ({error.filename})" if error.filename else ""
        return Stopped(f"{error.strerror or one_line(error)}{where}; {kept}, mend it and run the job again")
    if _NO_RIGHTS.search(str(error)):
        return Stopped(f"{one_line(error)}; {kept}, mend the credentials and run the job again")
    return None
