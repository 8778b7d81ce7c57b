"""``diffstyle bank``: look into latent banks, check them, change them as a whole."""

from __future__ import annotations

import click

from pipeline.cli.bank_change import export, merge, prune, repair
from pipeline.cli.bank_directions import directions
from pipeline.cli.bank_keys import keys
from pipeline.cli.bank_look import info, show, similar
from pipeline.cli.bank_verify import verify
from pipeline.cli.options import WholeSentences


@click.group(cls=WholeSentences)
def bank() -> None:
    """Look into latent banks, check and change them. BANK is a folder, s3://... or gs://..."""


for command in (info, keys, show, similar, verify, repair, merge, export, prune, directions):
    bank.add_command(command)
