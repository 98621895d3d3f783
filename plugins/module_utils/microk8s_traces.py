# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""What MicroK8s' default pod network leaves on a host, and its removal.

Nobody else cleans it: deleting the network's objects stops its daemon, and the pods it had wired are torn
down through the new CNI configuration, so its plugins never see their DEL. Found here are links, routes,
netfilter chains in both flavours of iptables, IP sets, and files.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_trace_files import (
    LOOPBACK,
    address_files,
    pod_logs,
    remove,
    results,
)

#: Links that only MicroK8s' built-in networks make.
LINKS = ("vxlan.calico", "vxlan-v6.calico", "flannel.1", "cni0")
LINK_PREFIX = "cali"
CALICO_LINKS = ("cali", "vxlan.calico", "vxlan-v6.calico")
#: Routing protocol numbers by which Calico marks its routes; iproute2 may print the name of its routing
#: daemon instead.
ROUTE_PROTOCOLS = ("80", "bird")
TABLES = ("raw", "mangle", "nat", "filter")
#: Chains of the default network, and of kube-proxy and kubelet, by how their names begin.
NETWORK_CHAINS = ("cali-",)
KUBERNETES_CHAINS = ("KUBE-",)
NO_IPSET = (
    "Calico ran on this node. The IP sets that it made (named cali...) stay in the kernel, because the "
    "command ipset is missing, on the node and in the snap. No rule refers to them any more; they take "
    "memory until the next reboot. To remove them now: apt-get install ipset, then "
    "ipset list -n | grep ^cali | xargs -r -n1 ipset destroy"
)
_CHAIN = re.compile(r"^:(\S+) ")
_JUMP = re.compile(r" -[jg] (\S+)")


@dataclass(frozen=True)
class DefaultNetwork:
    """What is known of the default network, from its CNI configuration: it tells its traces from other
    people's.
    """

    names: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()


def from_conflists(texts: Iterable[str]) -> DefaultNetwork:
    """Network names and bridges of CNI configurations; unreadable ones tell nothing."""
    names: list[str] = []
    bridges: list[str] = []
    for text in texts:
        try:
            conf = json.loads(text)
        except ValueError:
            continue
        if not isinstance(conf, dict):
            continue
        if isinstance(conf.get("name"), str):
            names.append(conf["name"])
        for plugin in conf.get("plugins") or [conf]:
            if plugin.get("type") == "bridge":
                bridges.append(str(plugin.get("bridge", "cni0")))
    return DefaultNetwork(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(bridges)))


def doomed_links(links: Iterable[str], network: DefaultNetwork) -> list[str]:
    """Those of the host's links that belong to the default network."""
    return [
        name for name in links if name in LINKS or name in network.bridges or name.startswith(LINK_PREFIX)
    ]


def doomed_routes(routes: Iterable[dict[str, Any]], cluster_cidr: str) -> list[list[str]]:
    """The default network's routes inside the pods' prefix, as arguments of ``ip route del``.

    Calico pins each of its blocks with a blackhole and routes those of other nodes; both are longer than
    podwire's prefixes and would swallow packets. They are known by their routing protocol number, 80.
    """
    cluster = ipaddress.ip_network(cluster_cidr)
    found = []
    for route in routes:
        try:
            prefix = ipaddress.ip_network(str(route.get("dst")))
        except ValueError:
            continue
        if str(route.get("protocol")) not in ROUTE_PROTOCOLS or prefix.version != cluster.version:
            continue
        if prefix.subnet_of(cluster):  # type: ignore[arg-type]
            kind = [str(route["type"])] if route.get("type", "unicast") != "unicast" else []
            found.append([*kind, str(route["dst"]), "proto", str(route["protocol"])])
    return found


def restore_script(
    saved: str, network: DefaultNetwork, prefixes: Sequence[str] = NETWORK_CHAINS
) -> tuple[str, list[str]]:
    """From the output of iptables-save: the input of ``iptables-restore --noflush`` that takes out the
    default network's
    chains and rules and nothing else, and the names of the chains it removes."""
    script: list[str] = []
    removed: list[str] = []
    calico = set(NETWORK_CHAINS) <= set(prefixes)
    for table, lines in _tables(saved):
        chains = {match.group(1) for line in lines if (match := _CHAIN.match(line))}
        rules = [line for line in lines if line.startswith("-A ")]
        named = [line for line in rules if _of_network(line, network)]
        doomed = {chain for chain in chains if chain.startswith(tuple(prefixes))}
        # A pod's masquerading and port mappings have a chain of their own, reached by a rule that names the
        # network.
        doomed |= {chain for line in named if (chain := _target(line)).startswith("CNI-") and chain in chains}
        loose = [
            line
            for line in rules
            if line.split()[1] not in doomed
            and (_target(line) in doomed or line in named or (calico and '"cali:' in line))
        ]
        if not doomed and not loose:
            continue
        script += [f"*{table}", *(f":{chain} - [0:0]" for chain in sorted(doomed))]
        script += ["-D " + line[3:] for line in loose]
        script += [*(f"-X {chain}" for chain in sorted(doomed)), "COMMIT"]
        removed += [f"{table}/{chain}" for chain in sorted(doomed)] or [f"{table} ({len(loose)} rules)"]
    return ("\n".join(script) + "\n" if script else ""), removed


def _tables(saved: str) -> list[tuple[str, list[str]]]:
    tables: list[tuple[str, list[str]]] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            tables.append((line[1:].strip(), []))
        elif tables:
            tables[-1][1].append(line)
    return tables


def _target(rule: str) -> str:
    match = _JUMP.search(rule)
    return match.group(1) if match else ""


def _of_network(rule: str, network: DefaultNetwork) -> bool:
    return any(f'name: \\"{name}\\"' in rule for name in network.names)


@dataclass
class Traces:
    """What was found, in words; empty when the host is clean."""

    links: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    chains: list[str] = field(default_factory=list)
    ipsets: list[str] = field(default_factory=list)
    ipam: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What could not be looked for, why, and the way out."""

    def __bool__(self) -> bool:
        return bool(self.as_dict())

    def as_dict(self) -> dict[str, list[str]]:
        """The traces without the warnings, by kind; kinds of which there are none are left out."""
        return {key: value for key, value in vars(self).items() if value and key != "warnings"}

    @property
    def of_calico(self) -> bool:
        """Whether Calico, the only default network with IP sets, was there."""
        return any(link.startswith(CALICO_LINKS) for link in self.links) or any(
            f"/{prefix}" in chain for chain in self.chains for prefix in NETWORK_CHAINS
        )


HostT = TypeVar("HostT", bound="Host")


class Host:
    """The host's links, routes, netfilter and files below ``var``.

    ``directories`` is where its tools are looked for.
    """

    @classmethod
    def of(cls: type[HostT], root: Path, snap: Path) -> HostT:
        """This host, with the snap's tools for those that it lacks."""
        folders = ("usr/sbin", "sbin", "usr/bin", "bin")
        tools = [*(root / folder for folder in folders), *(snap / folder for folder in folders)]
        return cls(tools, root / "var")

    def __init__(self, directories: Sequence[Path], var: Path = Path("/var")) -> None:
        self.directories = directories
        self.var = var

    def _tool(self, name: str) -> str | None:
        return next((str(folder / name) for folder in self.directories if (folder / name).exists()), None)

    def _run(self, *command: str, stdin: str | None = None) -> str:
        environment = {**os.environ, **_libraries(Path(command[0]))}
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise PodwireError(
                f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}",
                "Remove what the message names by hand, then run again.",
                {"stdin": stdin} if stdin else None,
            )
        return done.stdout

    def _ip(self, *arguments: str) -> str:
        tool = self._tool("ip")
        if tool is None:
            raise PodwireError("ip is not installed", "Install iproute2 (apt-get install iproute2).")
        return self._run(tool, *arguments)

    def _flavours(self) -> list[tuple[str, str]]:
        """(save, restore) of every iptables that can hold rules here."""
        found = []
        for family, tables in (("iptables", "ip_tables_names"), ("ip6tables", "ip6_tables_names")):
            for flavour in ("nft", "legacy"):
                # Asking the legacy tool creates the legacy tables; where none are in use there is nothing to
                # find.
                if flavour == "legacy" and not _content(Path("/proc/net") / tables).strip():
                    continue
                save, restore = (self._tool(f"{family}-{flavour}-{verb}") for verb in ("save", "restore"))
                if save and restore:
                    found.append((save, restore))
        return found

    def clean(
        self, network: DefaultNetwork, cluster_cidr: str, *, dry: bool, kubernetes: bool = False
    ) -> Traces:
        """Remove every trace, or only name them.

        With ``kubernetes`` also those of kube-proxy and kubelet: their chains, and the logs of pods.
        """
        prefixes = NETWORK_CHAINS + (KUBERNETES_CHAINS if kubernetes else ())
        found = Traces()
        links = [entry["ifname"] for entry in json.loads(self._ip("-j", "link", "show") or "[]")]
        for link in doomed_links(links, network):
            found.links.append(link)
            if not dry:
                self._delete_link(link)
        # After the links, because theirs are gone with them.
        routes = json.loads(self._ip("-j", "route", "show") or "[]")
        for route in doomed_routes(routes, cluster_cidr):
            found.routes.append(" ".join(route))
            if not dry:
                self._ip("route", "del", *route)
        for save, restore in self._flavours():
            script, chains = restore_script(self._run(save), network, prefixes)
            found.chains += [f"{Path(save).name.removesuffix('-save')} {chain}" for chain in chains]
            if script and not dry:
                self._run(restore, "--noflush", stdin=script)
        self._clean_ipsets(found, dry)
        self._clean_files(found, network, dry, kubernetes)
        return found

    def _clean_files(self, found: Traces, network: DefaultNetwork, dry: bool, kubernetes: bool) -> None:
        wired = (*network.names, *((LOOPBACK,) if kubernetes else ()))
        paths = {
            "ipam": address_files(self.var, network.names),
            "results": results(self.var, wired),
            "logs": pod_logs(self.var) if kubernetes else [],
        }
        for kind, doomed in paths.items():
            getattr(found, kind).extend(map(str, doomed))
            if not dry:
                remove(doomed)

    def _delete_link(self, link: str) -> None:
        try:
            self._ip("link", "del", link)
        except PodwireError as error:
            # The other end of a pod's pair may go at the same moment.
            if "Cannot find device" not in str(error):
                raise

    def _clean_ipsets(self, found: Traces, dry: bool) -> None:
        tool = self._tool("ipset")
        if tool is None:
            if found.of_calico:
                found.warnings.append(NO_IPSET)
            return
        for name in self._run(tool, "list", "-n").split():
            if name.startswith("cali"):
                found.ipsets.append(name)
                if not dry:
                    self._run(tool, "destroy", name)


def _libraries(tool: Path) -> dict[str, str]:
    """The library path that a tool from inside a snap needs: its own libraries are not where the host's
    are.
    """
    if "snap" not in tool.parts:
        return {}
    snap = Path(*tool.parts[: tool.parts.index("snap") + 3])
    triplet = f"{os.uname().machine}-linux-gnu"
    folders = (snap / place for place in ("lib", "usr/lib", f"lib/{triplet}", f"usr/lib/{triplet}"))
    return {"LD_LIBRARY_PATH": ":".join(str(folder) for folder in folders)}


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
