"""The command line. Its modules import only Typer until a command runs, so that ``--help`` answers at once."""
