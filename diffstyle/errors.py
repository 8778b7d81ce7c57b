"""The errors of this project, all of them. ``str(error)`` is one line: what is wrong, where, and the cure.

An error that reaches the user, with the exit code of the command that it ends::

    DiffStyleError             2  base of all that the user can fix; the command line prints it without a traceback
        CheckpointError        2  weights that can't be read, or don't fit their architecture
        ConfigError            2  a job, model config, option or file of settings with a wrong value
            MistakesError      2  several of these in one YAML file, a line for each
        SourceError            2  a data set that is missing, empty or unreadable
        PairsError             2  pairs that can't be made from the job's pictures
        ShardError             2  shards that are missing, or hold no picture
        BankError              2  a bank that is missing, broken, or does not fit the job
            UnknownKeyError    2  a key or image hash that the bank does not hold; also a KeyError
        DescriptionError       2  a store that was made with other settings, or whose description is missing
        DamagedError           2  a file that is not as it was written
        OtherReleaseError      2  a table that another release of diffstyle wrote
        NoRunError             2  a folder in which no job was run
        LockedError            2  another run holds the output
        MissingExtraError      2  a package of an optional extra is not installed
        FetchError             2  a download that failed
            RefusedError       2  the server gives something else than the file
                NotFoundError  2  the server has no such file
            InterruptedFetchError  4  the connection was cut; the same command goes on from there
                FullDiskError  4  the disk is full
        Stopped                4  the run can't go on, and can be resumed
    BugError                   1  a mistake in the code, met in a worker; its text is the traceback

A stop, which is no error of anybody's::

    CommandStopped                Ctrl-C or a signal, with what the command leaves behind; also a KeyboardInterrupt

An error that stops a run as Stopped does, wherever it is met::

    StoreError                    S3 or GCS can't be reached, fails or throttles for minutes; also an OSError
        NeverAnswered             nothing was ever heard of it

An error that costs one item, and ends as the reason in a table::

    Undecodable                   bytes that are no picture
    Unreadable                    a file or address that can't be read, though others may
    UnknownNameError              a name in a list of pairs that fits no picture, or several
    ScalarError                   a value in a YAML file that can't be read; also a ValueError
"""

from __future__ import annotations


class DiffStyleError(Exception):
    """Base of every error that a user can fix. ``str(error)`` is one line; the CLI prints it without a traceback."""

    exit_code = 2


class CheckpointError(DiffStyleError):
    """A checkpoint that cannot be read, or does not fit its architecture."""


class ConfigError(DiffStyleError):
    """A job, model config, option or file of settings with a wrong value; the message names the field."""


def one_line(error: BaseException, most: int = 300) -> str:
    """An error's text for a message: on one line, at most ``most`` characters; its type where it has no text."""
    return cut(" ".join(str(error).split()) or type(error).__name__, most)


def cut(text: str, most: int) -> str:
    """``text``, or its beginning and an ellipsis where it is longer than ``most`` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."
