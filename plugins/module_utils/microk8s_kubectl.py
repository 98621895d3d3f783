# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""The one way by which our modules talk to the Kubernetes API: the snap's own kubectl with the node's own
credentials.

kubectl reads YAML manifests and kubeconfigs, which the standard library cannot. On workers ``microk8s
kubectl`` refuses, so the binary inside the snap is called, with kubelet's credentials there and the
administrator's on a control plane.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_layout import Layout


class KubectlError(PodwireError):
    """kubectl failed: the API does not answer, or refuses."""


class NotFoundError(KubectlError):
    """The object is not there."""


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what makes a program load another one's libraries, or use a proxy to reach the
    node.
    """
    drop = {"LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "OPENSSL_CONF", "KUBECONFIG"}
    return {
        key: value
        for key, value in environment.items()
        if key not in drop and key.lower() not in {"http_proxy", "https_proxy", "all_proxy"}
    }


class Kubectl:
    """kubectl on this node. ``timeout`` bounds one call, in seconds. ``program`` and ``kubeconfig`` name
    another kubectl and other credentials than the snap's.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        timeout: float = 30.0,
        program: str | None = None,
        kubeconfig: str | None = None,
    ) -> None:
        self.layout = layout
        self.timeout = timeout
        self.program = program
        self.kubeconfig = kubeconfig

    def command(self, *arguments: str) -> list[str]:
        """The words of a command line."""
        program = self.program or str(self.layout.snap / "kubectl")
        return [program, f"--kubeconfig={self.kubeconfig or self.layout.kubeconfig}", *arguments]

    @property
    def installed(self) -> bool:
        """Whether there is a kubectl to run."""
        return shutil.which(self.command()[0]) is not None

    def run(self, *arguments: str, stdin: str | None = None, timeout: float | None = None) -> str:
        """Run kubectl and return its output; raise ``NotFoundError`` or ``KubectlError``."""
        limit = timeout or self.timeout
        command = self.command(*arguments)
        try:
            done = subprocess.run(
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
                env=clean_environment(os.environ),
            )
        except FileNotFoundError as error:
            raise KubectlError(
                f"{command[0]} does not exist",
                "Install MicroK8s on this node first (role podwire.ebpf.microk8s).",
            ) from error
        except subprocess.TimeoutExpired as error:
            raise KubectlError(
                f"kubectl {' '.join(arguments[:3])} did not end within {limit:.0f} s",
                "Check the API server: journalctl -u snap.microk8s.daemon-kubelite.",
            ) from error
        if done.returncode:
            message = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
            family = NotFoundError if "NotFound" in message or "not found" in message else KubectlError
            raise family(f"kubectl {' '.join(arguments[:3])}: {message}")
        return done.stdout

    def lines(self, *arguments: str) -> Generator[str, None, None]:
        """The lines of a command's output as they come. It is ended when nobody wants more of them."""
        process = subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=clean_environment(os.environ),
        )
        try:
            yield from process.stdout or ()
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def raw(self, path: str, *, timeout: float | None = None) -> str:
        """GET a path of the API as it is, for instance ``/readyz?verbose``."""
        return self.run("get", "--raw", path, timeout=timeout)

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> dict[str, Any] | None:
        """One object, or ``None`` when it is not there."""
        scope = ["-n", namespace] if namespace else []
        text = self.run("get", kind, name, *scope, "--ignore-not-found", "-o", "json")
        return dict(json.loads(text)) if text.strip() else None

    def items(self, kind: str, *options: str) -> list[dict[str, Any]]:
        """The objects of a kind; ``options`` are kubectl's (``-A``, ``--field-selector=...``)."""
        text = self.run("get", kind, *options, "-o", "json")
        return list(json.loads(text)["items"]) if text.strip() else []

    def parse(self, manifest: str, *, stdin: str | None = None) -> list[dict[str, Any]]:
        """The objects of a YAML manifest file, without changing the cluster."""
        text = self.run(
            "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", manifest, stdin=stdin
        )
        return decode_stream(text)

    def parse_text(self, text: str) -> list[dict[str, Any]]:
        """The objects of YAML text."""
        return self.parse("-", stdin=text)


def decode_stream(text: str) -> list[dict[str, Any]]:
    """JSON documents one after another, lists flattened, as kubectl prints them."""
    decoder = json.JSONDecoder()
    objects: list[dict[str, Any]] = []
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position == len(text):
            return objects
        value, position = decoder.raw_decode(text, position)
        objects.extend(value["items"] if value.get("kind") == "List" else [value])


def condition(conditions: Sequence[Mapping[str, Any]] | None, kind: str) -> Mapping[str, Any]:
    """One condition of an object's status, or an empty mapping."""
    return next((item for item in conditions or [] if item.get("type") == kind), {})
