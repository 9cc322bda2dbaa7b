"""The panel: its source beside this file, and `blueprint.py`, which serves what was built from it."""
