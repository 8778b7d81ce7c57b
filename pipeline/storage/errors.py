"""What ends a run or a unit: exit codes, the error to stop on, our own bugs, and errors as one line."""

from __future__ import annotations

import errno
import re
import traceback

from diffstyle.errors import DiffStyleError, cut, one_line

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


def reason_of(error: BaseException) -> str:
    """Why something failed, on one line: of an error of the system without the file, which the message names."""
    return " ".join((getattr(error, "strerror", None) or one_line(error)).split())


def headline(error: BaseException) -> str:
    """What a library raised, without its advice: the first line, or the last one of a traceback."""
    text = str(error).strip() or type(error).__name__
    return cut(" ".join(text.splitlines()[-1 if "Traceback" in text else 0].split()), most=300)


def how_it_ended(error: BaseException | None, code: int) -> tuple[str, int]:
    """How a run ended, in words, and with which exit code.

    Args:
        error: What ended it; None: it came to its end.
        code: The exit code where it did.
    """
    if error is None:
        return "done", code
    if isinstance(error, KeyboardInterrupt):
        return f"stopped by {error.args[0] if error.args else 'Ctrl-C'}", EXIT_STOPPED
    known = error if isinstance(error, DiffStyleError) else fatal(error)
    if isinstance(known, DiffStyleError):
        how = "stopped" if known.exit_code == EXIT_STOPPED else "ended by an error"
        return f"{how}: {one_line(known)}", known.exit_code
    return f"ended by a bug: {type(error).__name__}: {headline(error)}", EXIT_BUG


class StoreError(OSError):
    """An object store that can't be reached, or fails, throttles or drops requests however often they are repeated.

    Attributes:
        answered: Whether the store itself said so; otherwise nothing came from it.
    """

    answered = False


class NeverAnswered(StoreError):
    """An object store of which nothing was ever heard: more requests have no use now."""


_NO_USE_GOING_ON = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
# How object stores, through Arrow, say that the rights are gone.
_NO_RIGHTS = re.compile(
    "ACCESS_DENIED|NO_SUCH_BUCKET|EXPIRED_?TOKEN|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_CLIENT_TOKEN_ID"
    "|MISSING_AUTHENTICATION_TOKEN|UNRECOGNIZED_CLIENT|REQUEST_EXPIRED|InvalidAccessKeyId|SignatureDoesNotMatch",
    re.IGNORECASE,
)
# And that the store itself fails or throttles, after Arrow has repeated the request.
_NO_ANSWER = re.compile(
    "SLOW_?DOWN|SERVICE_?UNAVAILABLE|NETWORK_CONNECTION|INTERNAL_FAILURE|InternalError|REQUEST_?TIMEOUT|THROTTLING"
    "|RATE_?EXCEEDED|curlCode",
    re.IGNORECASE,
)


def unanswered(error: BaseException) -> bool:
    """Whether a store failed, throttled or was not reached, so that nothing is known of the file that was asked for."""
    return isinstance(error, StoreError) or (isinstance(error, OSError) and bool(_NO_ANSWER.search(str(error))))


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
        return Stopped(f"{reason_of(error)}{where}; {kept}, fix this and run the job again")
    if _NO_RIGHTS.search(str(error)):
        return Stopped(f"{one_line(error)}; {kept}, fix the credentials and run the job again")
    if unanswered(error):
        return Stopped(f"{one_line(error)}; {kept}, run the job again once the store answers")
    return None
