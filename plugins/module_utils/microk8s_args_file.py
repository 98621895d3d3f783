# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""Read and edit MicroK8s' argument files (``/var/snap/microk8s/current/args/*``). Pure.

MicroK8s has two readers. kubelite's splits lines on spaces, skips blank and ``#`` lines, removes every quote
and expands ``$VAR``; bash reads the other files as an array. What both understand alike is written here: one
``--key=value`` a line, no spaces, no quotes. Lines that are not touched stay as they are, to the byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

#: Which service reads a file. Everything else in the node daemon's family belongs to kubelite.
SERVICES = {
    "kube-apiserver": "kubelite",
    "kube-controller-manager": "kubelite",
    "kube-scheduler": "kubelite",
    "kube-proxy": "kubelite",
    "kubelet": "kubelite",
    "kubelite": "kubelite",
    "containerd": "containerd",
    "containerd-env": "containerd",
    "k8s-dqlite": "k8s-dqlite",
    "k8s-dqlite-env": "k8s-dqlite",
    "cluster-agent": "cluster-agent",
    "apiserver-proxy": "apiserver-proxy",
}

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass
class _Argument:
    """One argument: its key and value, and the places (line, first token, number of tokens) that spell it."""

    key: str
    value: str
    line: int
    token: int
    width: int


def normal_key(key: str) -> str:
    """The key without leading dashes; refuses what no component could read."""
    bare = key.lstrip("-")
    if not _KEY.fullmatch(bare):
        raise PodwireError(
            f"{key!r} is no argument name", "Write it like allocate-node-cidrs, without a value."
        )
    return bare


def normal_value(key: str, value: str) -> str:
    """The value as it can be written; refuses what the readers would tear apart or drop."""
    bad = re.search(r"[\s'\"\\`]", value)
    if bad or value.startswith("#"):
        raise PodwireError(
            f"The value {value!r} of {key} cannot be written: MicroK8s' argument files know no spaces and "
            "drop quotes",
            "Use a form of the argument without them.",
        )
    return value


class ArgsFile:
    """The text of one file and its arguments."""

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")

    @property
    def text(self) -> str:
        return "\n".join(self._lines)

    def _arguments(self) -> list[_Argument]:
        tokens = [
            (number, index, token)
            for number, line in enumerate(self._lines)
            if not line.lstrip().startswith("#")
            for index, token in enumerate(line.split())
        ]
        found: list[_Argument] = []
        for position, (number, index, token) in enumerate(tokens):
            if not token.startswith("-"):
                continue
            key, equals, value = token.lstrip("-").partition("=")
            width = 1
            if not equals:
                # `--key value`: the value is the next word of the same line, unless that is an argument
                # itself.
                following = tokens[position + 1] if position + 1 < len(tokens) else None
                if following and following[0] == number and not following[2].startswith("-"):
                    value, width = following[2], 2
                else:
                    value = "true"
            found.append(_Argument(key, value.replace('"', "").replace("'", ""), number, index, width))
        return found

    def arguments(self) -> dict[str, str]:
        """Every argument; of several with one name the last counts."""
        return {argument.key: argument.value for argument in self._arguments()}

    def get(self, key: str) -> str | None:
        """The value of an argument; a bare ``--key`` is ``true``; ``None`` when it is not there."""
        return self.arguments().get(normal_key(key))

    def set(self, key: str, value: str) -> bool:
        """Make the argument be there once with this value; return whether that changed anything."""
        key, value = normal_key(key), normal_value(key, value)
        places = [argument for argument in self._arguments() if argument.key == key]
        if len(places) == 1 and places[0].value == value:
            return False
        spelled = f"--{key}={value}"
        if not places:
            at = len(self._lines) if self._lines[-1].strip() else len(self._lines) - 1
            self._lines.insert(at, spelled)
            if at == len(self._lines) - 1:
                self._lines.append("")
            return True
        for place in reversed(places[1:]):
            self._splice(place, None)
        self._splice(places[0], spelled)
        return True

    def remove(self, key: str) -> bool:
        """Take the argument out, however often it is there; return whether it was."""
        key = normal_key(key)
        places = [argument for argument in self._arguments() if argument.key == key]
        for place in reversed(places):
            self._splice(place, None)
        return bool(places)

    def _splice(self, place: _Argument, replacement: str | None) -> None:
        words = self._lines[place.line].split()
        words[place.token : place.token + place.width] = [replacement] if replacement is not None else []
        if words:
            self._lines[place.line] = " ".join(words)
        else:
            del self._lines[place.line]


def edit(
    text: str, wanted: Mapping[str, str], absent: Iterable[str]
) -> tuple[str, dict[str, list[str | None]]]:
    """The file's text after the edit, and ``{key: [before, after]}`` for what it changed."""
    file = ArgsFile(text)
    before = file.arguments()
    changes: dict[str, list[str | None]] = {}
    for key, value in wanted.items():
        if file.set(key, value):
            changes[normal_key(key)] = [before.get(normal_key(key)), value]
    for key in absent:
        if file.remove(key):
            changes[normal_key(key)] = [before.get(normal_key(key)), None]
    return file.text, changes


def service_of(file: str) -> str | None:
    """The service (``microk8s.daemon-...`` without that prefix) that reads a file, or ``None`` for an unknown
    file.
    """
    return SERVICES.get(file)
