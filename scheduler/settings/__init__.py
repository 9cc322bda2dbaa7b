"""The settings: read once at start from the defaults, the file and the variables, and checked as a whole."""

from scheduler.settings.api_key import AdminKey, ApiKey
from scheduler.settings.load import Loaded, config_path, load_nodes, load_settings
from scheduler.settings.schema import (
    AuthSettings,
    ClusterSettings,
    DatabaseSettings,
    LoggingSettings,
    NodeSettings,
    SchedulerSettings,
    ServerSettings,
    Settings,
)
from scheduler.settings.show import as_dict, masked_url, rows

__all__ = [
    "AdminKey",
    "ApiKey",
    "AuthSettings",
    "ClusterSettings",
    "DatabaseSettings",
    "Loaded",
    "LoggingSettings",
    "NodeSettings",
    "SchedulerSettings",
    "ServerSettings",
    "Settings",
    "as_dict",
    "config_path",
    "load_nodes",
    "load_settings",
    "masked_url",
    "rows",
]
