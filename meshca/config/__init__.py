"""What `meshca up` can be told, and nowhere else: the settings, how they are read, how they are shown.

`python -m meshca.config > docs/configuration.md` writes the reference anew.
"""

from meshca.config.passphrase import read_passphrase
from meshca.config.places import default_admin_socket, default_router_socket, default_workload_socket
from meshca.config.reading import load
from meshca.config.reloading import Change, Reload, reloadable
from meshca.config.sections import HTTP, Authority, KeyManager, Limits, Log, Socket, Store
from meshca.config.settings import Config
from meshca.config.values import format_duration, parse_duration, parse_socket_flag
from meshca.config.writing import reference, render_toml

__all__ = [
    "HTTP",
    "Authority",
    "Change",
    "Config",
    "KeyManager",
    "Limits",
    "Log",
    "Reload",
    "Socket",
    "Store",
    "default_admin_socket",
    "default_router_socket",
    "default_workload_socket",
    "format_duration",
    "load",
    "parse_duration",
    "parse_socket_flag",
    "read_passphrase",
    "reference",
    "reloadable",
    "render_toml",
]
