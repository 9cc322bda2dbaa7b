"""Settings of gunicorn for a server started from a checkout; what they are is in scheduler/gunicorn_settings.py."""

from gevent import monkey

monkey.patch_all()

import runpy  # noqa: E402
from pathlib import Path  # noqa: E402

# Run, not imported: gunicorn reads this file again at each reload.
globals().update(runpy.run_path(str(Path(__file__).resolve().parent / "scheduler" / "gunicorn_conf.py")))
