# Copyright (c) The podwire authors
# SPDX-License-Identifier: Apache-2.0
"""A client for snapd's REST API on its unix socket, on the standard library alone.

It knows snapd's envelope, its asynchronous changes and its error kinds, and nothing of MicroK8s. Requests
survive a restart of snapd (the socket stays, systemd starts the daemon again), actions wait for a conflicting
change, and a change that fails or takes too long is reported with the task that was running and the last
lines of its log.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError

SOCKET = "/run/snapd.socket"
#: snapd's own client bears this long with a daemon that restarts itself, in seconds.
RESTART_PATIENCE = 120.0
RESTART_PAUSE = 0.25
#: snapd has no long poll for changes.
POLL_INTERVAL = 0.5
#: Files are uploaded in pieces of this many bytes and never held in memory.
UPLOAD_CHUNK = 1 << 20
LOG_LINES = 12


class SnapdError(PodwireError):
    """snapd refused. ``kind`` is its machine-readable reason, often empty; ``status`` the HTTP status
    code.
    """

    def __init__(
        self, message: str, *, hint: str = "", kind: str = "", status: int = 0, value: Any = None
    ) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.status = status
        self.value = value


class SnapdUnavailableError(SnapdError):
    """There is no snapd to talk to, or it went away and did not come back."""


class NotPermittedError(SnapdError):
    """snapd wants root."""


class SnapNotFoundError(SnapdError):
    """The store does not know the snap, or the snap is not installed."""


class ChannelNotAvailableError(SnapdError):
    """The snap exists, but not in that channel or for this architecture."""


class ConfinementRefusedError(SnapdError):
    """``classic`` was asked for and cannot be had, or the other way round."""


class DiskFullError(SnapdError):
    """snapd has not enough room for the snap."""


class NetworkTroubleError(SnapdError):
    """snapd cannot reach the store."""


class ChangeConflictError(SnapdError):
    """Another change works on the same snap. It passes."""


class AlreadyDoneError(SnapdError):
    """The snap is in the wanted state: already installed, no update available, not installed."""


class ChangeFailedError(SnapdError):
    """The change ended in an error and snapd has undone it. ``change`` is its last state."""

    def __init__(self, message: str, *, hint: str, change: Mapping[str, Any]) -> None:
        super().__init__(message, hint=hint, kind="change-failed")
        self.details["change"] = summary(change)


class ChangeTimeoutError(ChangeFailedError):
    """The change still runs after the time allowed; it goes on without us."""


_BY_KIND: dict[str, tuple[type[SnapdError], str]] = {
    "login-required": (NotPermittedError, "Run the task as root (become: true)."),
    "auth-cancelled": (NotPermittedError, "Run the task as root (become: true)."),
    "snap-not-found": (SnapNotFoundError, "Check the snap's name, or give a local file."),
    "snap-not-installed": (AlreadyDoneError, ""),
    "snap-already-installed": (AlreadyDoneError, ""),
    "snap-no-update-available": (AlreadyDoneError, ""),
    "snap-channel-not-available": (ChannelNotAvailableError, ""),
    "snap-architecture-not-available": (ChannelNotAvailableError, ""),
    "snap-revision-not-available": (ChannelNotAvailableError, ""),
    "snap-needs-classic": (ConfinementRefusedError, "Set classic: true."),
    "snap-not-classic": (ConfinementRefusedError, "Set classic: false, or take a channel without -strict."),
    "snap-needs-classic-system": (
        ConfinementRefusedError,
        "This system cannot run classic snaps: a symbolic link /snap -> /var/lib/snapd/snap is missing, or "
        "it is Ubuntu Core.",
    ),
    "snap-needs-devmode": (ConfinementRefusedError, "The snap is a development build; take another channel."),
    "snap-change-conflict": (
        ChangeConflictError,
        "Wait for the other change (snap changes), then run again.",
    ),
    "insufficient-disk-space": (
        DiskFullError,
        "Free some room under /var/lib/snapd and /var/snap, then run again.",
    ),
    "network-timeout": (
        NetworkTroubleError,
        "Make api.snapcraft.io reachable from the node, or give a local file.",
    ),
    "dns-failure": (
        NetworkTroubleError,
        "Make api.snapcraft.io resolvable on the node, or give a local file.",
    ),
}


def error_from(status: int, result: Any) -> SnapdError:
    """The exception for an error reply's HTTP status and ``result``."""
    result = result if isinstance(result, Mapping) else {}
    kind = str(result.get("kind") or "")
    message = str(result.get("message") or f"HTTP status {status}")
    value = result.get("value")
    family, hint = _BY_KIND.get(kind, (SnapdError, ""))
    if not kind:
        if status in (401, 403):
            family, hint = NotPermittedError, "Run the task as root (become: true)."
        elif status == 409:
            family, hint = ChangeConflictError, _BY_KIND["snap-change-conflict"][1]
        elif status == 507 or "no space left" in message:
            family, hint = DiskFullError, _BY_KIND["insufficient-disk-space"][1]
        elif "network error" in message or "dial tcp" in message:
            family, hint = NetworkTroubleError, _BY_KIND["network-timeout"][1]
        elif "cannot find signatures" in message:
            hint = "Put the snap's .assert file beside it (snap download makes both), or set dangerous: true."
    if family is ChannelNotAvailableError and isinstance(value, Mapping):
        hint = _channel_hint(value)
    return family(f"snapd: {message}", hint=hint, kind=kind, status=status, value=value)


def _channel_hint(value: Mapping[str, Any]) -> str:
    releases = [
        f"{release.get('channel')} ({release.get('architecture')})"
        if value.get("architecture") != release.get("architecture")
        else str(release.get("channel"))
        for release in value.get("releases") or []
        if isinstance(release, Mapping)
    ]
    if not releases:
        return "snap info lists the channels."
    return f"There are: {', '.join(sorted(set(releases)))}."


@dataclass(frozen=True)
class SnapFile:
    """What a local snap file says of itself."""

    path: Path
    name: str
    version: str
    confinement: str
    type: str

    @property
    def assertions(self) -> Path | None:
        """The assertion file that ``snap download`` leaves beside the snap, if it is there."""
        beside = self.path.with_suffix(".assert")
        return beside if beside.is_file() else None


def parse_snap_yaml(path: Path, text: str) -> SnapFile:
    """Read the top-level scalars that matter from a ``meta/snap.yaml``."""
    found = dict(re.findall(r"^(name|version|confinement|type):[ \t]*[\"']?([^\"'\s#]+)", text, re.MULTILINE))
    if "name" not in found:
        raise PodwireError(
            f"{path} holds no snap: its meta/snap.yaml has no name",
            hint="Pack it again, or give another file.",
        )
    return SnapFile(
        path=path,
        name=found["name"],
        version=found.get("version", ""),
        confinement=found.get("confinement", "strict"),
        type=found.get("type", "app"),
    )


def _seconds(text: str | None) -> float | None:
    """An RFC 3339 time, with Go's nanoseconds, as seconds since the epoch."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if not match:
        return None
    whole, fraction, zone = match.groups()
    moment = datetime.fromisoformat(whole + ("+00:00" if zone == "Z" else zone))
    return moment.timestamp() + float(fraction or 0)


def task_durations(change: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The change's tasks in the order they ended, with the seconds each took.

    snapd records when a task was created and when it ended, not when it began; tasks of one snap run one
    after another, so a task's time is what passed since the one before it ended.
    """
    tasks = list(change.get("tasks") or [])
    before = _seconds(change.get("spawn-time"))
    ended = sorted(
        ((_seconds(task.get("ready-time")) or float("inf"), index) for index, task in enumerate(tasks))
    )
    report = []
    for moment, index in ended:
        task = tasks[index]
        entry = {
            "kind": task.get("kind", ""),
            "summary": task.get("summary", ""),
            "status": task.get("status", ""),
        }
        if moment != float("inf") and before is not None:
            entry["seconds"] = round(max(0.0, moment - before), 2)
            before = max(before, moment)
        report.append(entry)
    return report


def running_task(change: Mapping[str, Any]) -> dict[str, Any] | None:
    """The task a change is at, or the one that failed."""
    tasks = list(change.get("tasks") or [])
    for status in ("Error", "Doing", "Undoing", "Wait"):
        for task in tasks:
            if task.get("status") == status:
                return dict(task)
    return None


def summary(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change as a module's result shows it."""
    task = running_task(change)
    return {
        "id": str(change.get("id", "")),
        "kind": change.get("kind", ""),
        "summary": change.get("summary", ""),
        "status": change.get("status", ""),
        "error": change.get("err", ""),
        "tasks": task_durations(change),
        "log": list((task or {}).get("log") or [])[-LOG_LINES:],
    }


def _progress_text(task: Mapping[str, Any]) -> str:
    progress = task.get("progress") or {}
    done, total = progress.get("done", 0), progress.get("total", 0)
    if total > 1:
        return f" ({100 * done // total} % of {total} bytes)"
    return ""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _NotSentError(Exception):
    """No connection was made, so nothing can have happened: safe to try again."""


class Snapd:
    """snapd on one machine.

    ``timeout`` is for one request, in seconds; a change is followed for as long as its caller says.
    """

    def __init__(
        self,
        socket_path: str = SOCKET,
        *,
        timeout: float = 60.0,
        restart_patience: float = RESTART_PATIENCE,
        poll_interval: float = POLL_INTERVAL,
        on_progress: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.socket_path = socket_path
        self.timeout = timeout
        self.restart_patience = restart_patience
        self.poll_interval = poll_interval
        self.on_progress = on_progress
        self._answered = False

    # --- reading

    def version(self) -> str:
        """snapd's version, for instance ``2.57.6-1+deb12u1``."""
        return str(self.system_info().get("version", ""))

    def system_info(self) -> dict[str, Any]:
        """Version, operating system, refresh schedule and what the sandbox can do."""
        return dict(self.get("/v2/system-info"))

    def snap(self, name: str) -> dict[str, Any] | None:
        """The record of an installed snap, or ``None``."""
        try:
            return dict(self.get(f"/v2/snaps/{urllib.parse.quote(name)}"))
        except SnapNotFoundError:
            return None

    def services(self, name: str) -> list[dict[str, Any]]:
        """The snap's services. snapd leaves out false values; here ``enabled`` and ``active`` are
        always set.
        """
        found = self.get("/v2/apps", {"select": "service", "names": name})
        return [
            {**app, "enabled": bool(app.get("enabled")), "active": bool(app.get("active"))}
            for app in found or []
        ]

    def changes_in_progress(self, name: str) -> list[dict[str, Any]]:
        """Changes of this snap that have not ended."""
        return list(self.get("/v2/changes", {"select": "in-progress", "for": name}) or [])

    def change(self, identifier: str) -> dict[str, Any]:
        """One change with its tasks."""
        return dict(self.get(f"/v2/changes/{urllib.parse.quote(identifier)}"))

    # --- acting; every method returns when snapd has finished, with the change as it ended

    def action(self, name: str, action: str, *, deadline: float, **options: Any) -> dict[str, Any]:
        """install, refresh, switch, remove, hold ... one snap and follow the change.

        ``deadline`` is a time of ``time.monotonic()``. A change that already works on this snap is waited for
        first.
        """
        body = {
            "action": action,
            **{key.replace("_", "-"): value for key, value in options.items() if value is not None},
        }
        return self._act(f"/v2/snaps/{urllib.parse.quote(name)}", body, name, deadline)

    def hold(self, name: str, *, deadline: float) -> dict[str, Any]:
        """No automatic refresh any more until it is released; a refresh that names the snap still works."""
        body = {"action": "hold", "snaps": [name], "time": "forever", "hold-level": "general"}
        return self._act("/v2/snaps", body, name, deadline)

    def control(self, action: str, names: Sequence[str], *, deadline: float) -> dict[str, Any]:
        """start, stop or restart services, named ``snap.app``."""
        return self._act(
            "/v2/apps", {"action": action, "names": list(names)}, names[0].split(".")[0], deadline
        )

    def assert_from(self, path: Path) -> None:
        """Make snapd know the assertions in a file, so that the snap beside it counts as signed."""
        self.request(
            "POST", "/v2/assertions", body=path.read_bytes(), content_type="application/x.ubuntu.assertion"
        )

    def sideload(
        self, file: Path, name: str, *, classic: bool, dangerous: bool, deadline: float
    ) -> dict[str, Any]:
        """Upload a local snap file and install it, over an installed revision if there is one."""
        fields = {"action": "install"}
        if classic:
            fields["classic"] = "true"
        if dangerous:
            fields["dangerous"] = "true"

        def send() -> str:
            upload = _Upload(file, fields)
            return self._async(
                "POST", "/v2/snaps", upload, upload.content_type, {"Content-Length": str(upload.length)}
            )

        return self._retrying(send, name, deadline)

    def wait(self, identifier: str, *, deadline: float) -> dict[str, Any]:
        """Follow a change until it ends; raise ``ChangeFailedError`` or ``ChangeTimeoutError``."""
        while True:
            change = self.change(identifier)
            if self.on_progress:
                self.on_progress(change)
            if change.get("ready"):
                break
            if time.monotonic() >= deadline:
                raise self._timeout(change)
            time.sleep(self.poll_interval)
        if change.get("status") != "Done":
            raise self._failure(change)
        return change

    def wait_idle(self, name: str, *, deadline: float) -> list[dict[str, Any]]:
        """Wait for whatever works on this snap; return those changes as they ended, failed ones included."""
        ended = []
        for change in self.changes_in_progress(name):
            try:
                ended.append(self.wait(str(change["id"]), deadline=deadline))
            except ChangeTimeoutError:
                raise
            except ChangeFailedError:
                ended.append(self.change(str(change["id"])))
        return ended

    # --- transport

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """GET, repeated through a restart of snapd; return the reply's ``result``."""
        if query:
            path = f"{path}?{urllib.parse.urlencode(query)}"
        return self.request("GET", path)["result"]

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request; return the envelope of a success, raise the exception of an error.

        A connection that cannot be made is tried again while snapd may be restarting. One that breaks after
        the request was sent is tried again only for GET: the caller cannot know how far another one got.
        """
        give_up = time.monotonic() + self.restart_patience
        while True:
            try:
                return self._once(method, path, body, content_type, headers or {})
            except _NotSentError as error:
                if isinstance(error.__cause__, PermissionError):
                    raise NotPermittedError(
                        f"{self.socket_path}: permission denied", hint="Run the task as root (become: true)."
                    ) from error
                if not self._may_come_back(error) or time.monotonic() >= give_up:
                    raise self._unavailable(error.__cause__) from error
            except (OSError, http.client.HTTPException) as error:
                if method != "GET" or time.monotonic() >= give_up:
                    raise SnapdUnavailableError(
                        f"snapd closed the connection during {method} {path} "
                        f"({error or type(error).__name__})",
                        hint="See journalctl -u snapd and snap changes for how far it got; run again.",
                    ) from error
            time.sleep(RESTART_PAUSE)

    def _may_come_back(self, error: _NotSentError) -> bool:
        return self._answered or not isinstance(error.__cause__, FileNotFoundError)

    def _unavailable(self, cause: BaseException | None) -> SnapdUnavailableError:
        if isinstance(cause, FileNotFoundError):
            return SnapdUnavailableError(
                f"There is no snapd on this machine: {self.socket_path} does not exist",
                hint="Install the package snapd (apt-get install snapd) on a machine whose init is systemd.",
            )
        return SnapdUnavailableError(
            f"snapd does not answer on {self.socket_path}: {cause}",
            hint="Start it (systemctl start snapd.socket) and look at journalctl -u snapd.",
        )

    def _once(
        self, method: str, path: str, body: Any, content_type: str, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        connection = _UnixConnection(self.socket_path, self.timeout)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise _NotSentError from error
            sent = {"Content-Type": content_type, **headers} if body is not None else dict(headers)
            refused: Exception | None = None
            try:
                connection.request(method, path, body=body, headers=sent)
            except BrokenPipeError as error:
                # snapd answers an upload that it refuses (no space, say) before it has read all of it.
                refused = error
            try:
                response = connection.getresponse()
                payload = response.read()
            except (OSError, http.client.HTTPException):
                if refused:
                    raise refused from None
                raise
        finally:
            connection.close()
        self._answered = True
        try:
            envelope = json.loads(payload)
        except ValueError as error:
            raise SnapdError(
                f"{self.socket_path} answered {method} {path} with something that is no snapd reply: "
                f"{payload[:80]!r}",
                hint="Check that this socket is snapd's.",
            ) from error
        if envelope.get("type") == "error":
            raise error_from(int(envelope.get("status-code") or response.status), envelope.get("result"))
        return dict(envelope)

    def _async(self, method: str, path: str, body: Any, content_type: str, headers: Mapping[str, str]) -> str:
        return str(
            self.request(method, path, body=body, content_type=content_type, headers=headers).get(
                "change", ""
            )
        )

    def _act(self, path: str, body: Mapping[str, Any], name: str, deadline: float) -> dict[str, Any]:
        payload = json.dumps(body).encode()
        return self._retrying(
            lambda: self._async("POST", path, payload, "application/json", {}), name, deadline
        )

    def _retrying(self, send: Callable[[], str], name: str, deadline: float) -> dict[str, Any]:
        """Start a change, waiting while another one holds the snap, and follow it."""
        while True:
            try:
                identifier = send()
            except ChangeConflictError as conflict:
                if time.monotonic() >= deadline:
                    raise ChangeConflictError(
                        f"{conflict}; it did not end within the time allowed",
                        hint=conflict.hint,
                        kind=conflict.kind,
                        status=conflict.status,
                        value=conflict.value,
                    ) from conflict
                if not self.wait_idle(name, deadline=deadline):
                    time.sleep(self.poll_interval)
                continue
            if not identifier:
                return {}
            return self.wait(identifier, deadline=deadline)

    def _timeout(self, change: Mapping[str, Any]) -> ChangeTimeoutError:
        task = running_task(change) or {}
        done = sum(1 for item in change.get("tasks") or [] if item.get("status") == "Done")
        return ChangeTimeoutError(
            f"snapd has not finished '{change.get('summary')}' (change {change.get('id')}) in the time "
            "allowed: "
            f"{done} of {len(change.get('tasks') or [])} tasks done, now at "
            f"'{task.get('summary', change.get('status'))}'"
            f"{_progress_text(task)}{_log_text(task)}",
            hint=f"It goes on; run again to wait for it, or end it with: snap abort {change.get('id')}.",
            change=change,
        )

    def _failure(self, change: Mapping[str, Any]) -> ChangeFailedError:
        task = running_task(change) or {}
        reason = str(change.get("err") or "").strip() or str(change.get("status"))
        hint = "snapd has undone it. Remove the cause and run again."
        if "persistent network error" in reason:
            hint = (
                "The node does not reach the snap store: give what is missing as files too (prerequisites)."
            )
        # snapd repeats the log's error line in the change's own.
        lines = [line for line in task.get("log") or [] if str(line).rpartition(" ERROR ")[2] not in reason]
        return ChangeFailedError(
            f"snapd could not finish '{change.get('summary')}' (change {change.get('id')}): "
            f"{reason}{_log_text({'log': lines})}",
            hint=hint,
            change=change,
        )


def _log_text(task: Mapping[str, Any]) -> str:
    lines = [str(line) for line in task.get("log") or []][-LOG_LINES:]
    return f". Its log ends with: {' | '.join(lines)}" if lines else ""


class _Upload:
    """A multipart/form-data body that is read from the file while it is sent."""

    def __init__(self, file: Path, fields: Mapping[str, str]) -> None:
        boundary = f"podwire-{uuid.uuid4().hex}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._file = file
        # snapd wants the form's text parts before it reads the file.
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="snap"; filename="{file.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = head.encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._size = file.stat().st_size
        self.length = len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        left = self._size
        with self._file.open("rb") as stream:
            while left:
                piece = stream.read(min(UPLOAD_CHUNK, left))
                if not piece:
                    raise PodwireError(
                        f"{self._file} became shorter while it was uploaded", hint="Run again."
                    )
                left -= len(piece)
                yield piece
        yield self._tail
