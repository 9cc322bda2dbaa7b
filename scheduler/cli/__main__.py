"""`python -m scheduler.cli`: the command line without its script."""

from scheduler.cli import main

main(prog_name="llm-scheduler")
