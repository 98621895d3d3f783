"""The node's datapath: what is loaded where, and how it is changed without losing a packet."""

from .config import GATEWAY_IP, HOST_MAC, DatapathConfig
from .errors import DatapathError, NotInstalled, UnsupportedKernel
from .manager import Datapath, TypedMap
from .report import Changes, DatapathStatus, HostRoutingChange, MapStatus, ProgramStatus
from .service_settings import ServiceSettings

__all__ = [
    "GATEWAY_IP",
    "HOST_MAC",
    "Changes",
    "Datapath",
    "DatapathConfig",
    "DatapathError",
    "DatapathStatus",
    "HostRoutingChange",
    "MapStatus",
    "NotInstalled",
    "ProgramStatus",
    "ServiceSettings",
    "TypedMap",
    "UnsupportedKernel",
]
