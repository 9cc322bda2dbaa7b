"""Packaging. Versions that are really installed are pinned in requirements*.txt; the ranges here say what can work."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent

INSTALL_REQUIRES = [
    "click>=8.1.8,<9",
    "flask>=3.1,<4",
    "flask-migrate>=4.1,<5",
    "flask-sqlalchemy>=3.1,<4",
    "gevent>=26.9,<27",
    # Exact: the worker subclass and the reload rely on details of this release.
    "gunicorn[gevent]==27.0.1",
    "httptools>=0.9,<0.10",
    "msgspec>=0.22,<0.23",
    "prometheus-client>=0.26,<0.27",
    "pydantic>=2.14,<3",
    "pyyaml>=6.0.3,<7",
    "requests>=2.34,<3",
    "sqlalchemy>=2.1,<2.2",
]

EXTRAS_REQUIRE = {
    # Exact, because no requirements file pins the extras.
    "postgres": ["psycopg[binary]==3.3.9"],
    "redis": ["redis==8.1.0"],
    "dev": [
        "hypothesis>=6.170,<7",
        "mypy>=2.4,<3",
        "openai>=3.54,<4",
        "pytest>=9.2,<10",
        "pytest-randomly>=5.1,<6",
        "responses>=0.26,<0.27",
        "ruff>=0.17,<0.18",
        "types-pyyaml>=6.0.12",
        "types-requests>=2.33",
    ],
}

# The same commands for `flask ...`. As entry points, so that they do not build the app, which takes the data folder.
COMMANDS = {
    "backup": "scheduler.cli.backup:backup",
    "config": "scheduler.cli.config:config",
    "db": "scheduler.cli.db:db",
    "healthcheck": "scheduler.cli.healthcheck:healthcheck",
    "nodes": "scheduler.cli.nodes:nodes",
    "requests": "scheduler.cli.requests:requests",
    "serve": "scheduler.cli.serve:serve",
    "simulate": "scheduler.cli.simulate:simulate",
    "simulate-node": "scheduler.cli.simulate_node:simulate_node",
    "status": "scheduler.cli.status:status",
}


def read_version() -> str:
    """The version, read as text: importing the package would need its dependencies."""
    text = (ROOT / "scheduler" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError('scheduler/__init__.py has no line __version__ = "..."')
    return found.group(1)


def read_long_description() -> str:
    """The README, where it is part of what is being built."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


if __name__ == "__main__":
    setup(
        name="llm-scheduler",
        version=read_version(),
        description="Strict limits, a priority queue and records in front of GPU servers",
        long_description=read_long_description(),
        long_description_content_type="text/markdown",
        license="MIT",
        python_requires=">=3.11",
        packages=find_packages(include=["scheduler", "scheduler.*", "admin_ui"]),
        package_data={
            "scheduler": ["migrations/*", "migrations/versions/*.py", "web/docs_page/*"],
            # The built panel; a wheel without it runs too and says how to build it.
            "admin_ui": ["dist/**/*"],
        },
        install_requires=INSTALL_REQUIRES,
        extras_require=EXTRAS_REQUIRE,
        entry_points={
            "console_scripts": ["llm-scheduler = scheduler.cli:main"],
            "flask.commands": [f"{name} = {place}" for name, place in COMMANDS.items()],
        },
        zip_safe=False,
    )
