"""Identities as objects of the Kubernetes API: made, touched, deleted. Blocks."""

from __future__ import annotations

from datetime import datetime, timezone

from podwire.agent import identity_objects as objects
from podwire.agent.identity_choice import Create, Step, Steps
from podwire.agent.identity_objects import IDENTITIES, USED_ANNOTATION, IdentityObject
from podwire.kube.client import ApiError, KubeClient
from podwire.kube.reflector import Connection

NOT_FOUND = 404
CONFLICT = 409


class IdentityApi:
    """Calls may come from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def run(self, steps: Steps) -> IdentityObject | None:
        """Carry out a choice; returns its result. Raises ApiError."""
        client = self._connection.client()
        answer: IdentityObject | None = None
        try:
            step = next(steps)
            while True:
                answer = self._do(client, step)
                step = steps.send(answer)
        except StopIteration as end:
            result: IdentityObject | None = end.value
            return result

    def delete(self, item: IdentityObject) -> bool:
        """Delete an identity unless it changed meanwhile; True when it was. Raises ApiError."""
        try:
            self._connection.client().delete(f"{IDENTITIES}/{item.number}", item.version)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
            return False
        return True

    def _do(self, client: KubeClient, step: Step) -> IdentityObject | None:
        path = f"{IDENTITIES}/{step.number}"
        try:
            if isinstance(step, Create):
                body = objects.identity_body(step.number, step.labels)
                return objects.identity(client.create(IDENTITIES, body))
            now = datetime.now(timezone.utc).isoformat()
            return objects.identity(client.patch(path, {"metadata": {"annotations": {USED_ANNOTATION: now}}}))
        except ApiError as error:
            absent = CONFLICT if isinstance(step, Create) else NOT_FOUND
            if error.status != absent:
                raise
            return None
