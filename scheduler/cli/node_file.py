"""The file of nodes: the list `nodes:` of config.yaml, as `nodes import` reads it and `nodes export` writes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from scheduler.errors import ConfigError
from scheduler.settings import load_nodes, masked_url

#: What a file says of a node, in the order in which it is written. A key is read, and never written.
FILE_FIELDS = ("id", "address", "models", "max_concurrent", "weight", "labels", "remark")

_HEADER = """\
# The nodes of {url}. `llm-scheduler nodes import FILE` takes this file; config.yaml takes the list as it stands.
# Keys of nodes are never exported. Import leaves the key of a known node as it is; a new node that wants one
# needs a line such as  api_key: "sk-of-the-node"
"""


def read_nodes(file: Path) -> list[dict[str, Any]]:
    """The nodes of a file, each with the fields that stand there. Fails with every mistake and its line."""
    try:
        nodes, warnings = load_nodes(file)
    except ConfigError as error:
        raise click.ClickException("\n".join(error.problems)) from None
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    return nodes


def written_nodes(nodes: Sequence[Mapping[str, Any]], url: str) -> str:
    """The text of a file with these nodes, as the server tells them."""
    listed = [{name: node[name] for name in FILE_FIELDS} for node in nodes]
    text = _HEADER.format(url=masked_url(url))
    with_key = [node["id"] for node in nodes if node["has_api_key"]]
    if with_key:
        text += f"# These have a key: {', '.join(with_key)}\n"
    return text + yaml.safe_dump({"nodes": listed}, allow_unicode=True, sort_keys=False, width=120)
