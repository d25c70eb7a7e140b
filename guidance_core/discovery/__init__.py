"""Finding plugins and executors through entry points, so that a broken one harms no other."""

from guidance_core.discovery.registry import (
    DISABLE,
    ONLY,
    ONLY_EXECUTORS,
    Found,
    entry_name,
    executor_class,
    executor_names,
    find_executors,
    find_plugins,
    plugin_class,
    plugin_names,
    problems,
    published,
    publishers,
    register_executor,
    register_plugin,
    unregister_executor,
    unregister_plugin,
)
from guidance_core.discovery.shipped import EXECUTORS, PLUGINS
from guidance_core.discovery.versions import versions_of

__all__ = [
    "DISABLE",
    "EXECUTORS",
    "ONLY",
    "ONLY_EXECUTORS",
    "PLUGINS",
    "Found",
    "entry_name",
    "executor_class",
    "executor_names",
    "find_executors",
    "find_plugins",
    "plugin_class",
    "plugin_names",
    "problems",
    "published",
    "publishers",
    "register_executor",
    "register_plugin",
    "unregister_executor",
    "unregister_plugin",
    "versions_of",
]
