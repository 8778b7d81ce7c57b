"""``python -m pipeline`` is the ``diffstyle`` command."""

from pipeline.cli.main import main

if __name__ == "__main__":
    main(prog_name="diffstyle")
