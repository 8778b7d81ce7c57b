"""What a command says after Ctrl-C or a signal: one line on what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

#: Of a command, or a part of one, that only reads.
NOTHING_WRITTEN = "nothing was written"
#: Of all that commits its work piece by piece.
KEPT = "what is finished is kept, and the same command goes on from there"


class CommandStopped(KeyboardInterrupt):
    """Ctrl-C or a signal, with what the command leaves behind.

    Attributes:
        left: That, in words.
    """

    def __init__(self, left: str, *args: object) -> None:
        super().__init__(*args)
        self.left = left


@contextmanager
def if_stopped(left: str | Callable[[], str]) -> Iterator[None]:
    """While inside, or in a function that this decorates, a stop says what is ``left``; an inner one goes before.

    Args:
        left: In words; or a function that gives them, called once the work has stopped.
    """
    try:
        yield
    except CommandStopped:
        raise
    except (KeyboardInterrupt, click.Abort) as error:  # click makes an Abort of a Ctrl-C at a question
        raise CommandStopped(left if isinstance(left, str) else left(), *error.args) from None
