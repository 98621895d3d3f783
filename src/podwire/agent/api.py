"""The agent's two sockets: the REST API for people and modules, and the CNI plugin's."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from podwire.agent import cni
from podwire.agent.cni import CniError, Code
from podwire.agent.daemon import Agent
from podwire.agent.events import EventLog
from podwire.agent.model import Endpoint
from podwire.agent.policy_question import TraceError, parse_question
from podwire.bpf import BpfError
from podwire.datapath import DatapathError
from podwire.service.model import Name

log = logging.getLogger(__name__)

MAX_BODY = 5 << 20
MAX_WAIT = 60.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SocketError(Exception):
    """A socket cannot be made. The message names it."""


async def serve(app: web.Application, path: Path) -> web.AppRunner:
    """Serve ``app`` on a unix socket that only root can use; one that a dead agent left is replaced.

    Raises SocketError."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=10.0)
    await runner.setup()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(path), backlog=1024).start()
        finally:
            os.umask(before)
    except OSError as error:
        await runner.cleanup()
        raise SocketError(f"cannot listen on {path}: {error.strerror or error}") from error
    return runner


# -- the CNI plugin's socket -----------------------------------------------------------------------


def cni_app(agent: Agent) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY)
    for command in ("add", "del", "check", "gc", "status"):
        app.router.add_post(f"/v1/cni/{command}", _cni_handler(agent, command))
    return app


def _cni_handler(agent: Agent, command: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        version = cni.NEWEST
        try:
            body = await _cni_body(request)
            version = cni.version_of(body)
            result = await _serve_cni(agent, cni.parse_request(command, body))
        except CniError as error:
            return _cni_error(agent, command, error, version)
        except Exception as error:  # the runtime gets an error object for whatever goes wrong here
            log.exception("CNI %s", command)
            failure = CniError(
                Code.INTERNAL, f"{type(error).__name__}: {error}", "see journalctl -u podwire-agent"
            )
            return _cni_error(agent, command, failure, version)
        return web.json_response(result) if result is not None else web.Response(status=200)

    return handle


async def _cni_body(request: web.Request) -> Any:
    try:
        return json.loads(await request.read())
    except (
        ValueError
    ) as error:  # RecursionError is one for this parser only in name: nesting is bounded by size
        raise CniError(Code.DECODING_FAILURE, f"the request is not JSON: {error}") from error
    except RecursionError as error:
        raise CniError(Code.DECODING_FAILURE, "the request is nested too deeply") from error


async def _serve_cni(agent: Agent, request: cni.Request) -> dict[str, Any] | None:
    reasons = agent.reasons()
    endpoints = agent.endpoints
    if request.command == "status":
        if reasons:
            raise CniError(Code.NOT_AVAILABLE, "; ".join(reasons))
        return None
    # Without a podCIDR everything but a new address works.
    if endpoints is None or (reasons and request.command == "add"):
        raise CniError(Code.TRY_AGAIN_LATER, f"podwire-agent is not ready: {'; '.join(reasons)}")
    if request.command == "add":
        agent.counters["cni_add"] += 1
        started = time.monotonic()
        result = await agent.run_waiting(endpoints.add, request)
        took = (time.monotonic() - started) * 1000
        log.info("ADD %s: %s in %.0f ms", _who(request), result["ips"][0]["address"], took)
        return result
    if request.command == "del":
        agent.counters["cni_del"] += 1
        known = await agent.run(endpoints.delete, request.container_id, request.ifname)
        log.info("DEL %s%s", _who(request), "" if known else ": not known here")
    elif request.command == "check":
        await agent.run(endpoints.check, request)
    elif request.valid_attachments is not None:
        await agent.run(endpoints.collect, request.valid_attachments)
    return None


def _who(request: cni.Request) -> str:
    """Pod and container of a call, for the log."""
    pod = "/".join(filter(None, (request.args.get(f"K8S_POD_{part}") for part in ("NAMESPACE", "NAME"))))
    return f"{pod or 'container'} ({request.container_id[:13]})"


def _cni_error(agent: Agent, command: str, error: CniError, version: str) -> web.Response:
    agent.counters["cni_errors"] += 1
    log.warning("CNI %s refused: %s", command.upper(), error.msg)
    return web.json_response(error.as_json(version), status=error.http_status)


# -- the REST API ----------------------------------------------------------------------------------


def rest_app(agent: Agent) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors])
    rest = Rest(agent)
    app.router.add_get("/v1/status", rest.status)
    app.router.add_get("/v1/health", rest.health)
    app.router.add_get("/v1/endpoints", rest.endpoints)
    app.router.add_get("/v1/endpoints/{address}", rest.endpoint)
    app.router.add_get("/v1/policies", rest.policies)
    app.router.add_get("/v1/policies/{kind}/{name}", rest.policy)
    app.router.add_get("/v1/policies/{kind}/{namespace}/{name}", rest.policy)
    app.router.add_post("/v1/policy/trace", rest.trace)
    app.router.add_get("/v1/identities", rest.identities)
    app.router.add_get("/v1/identities/{number}", rest.identity)
    app.router.add_get("/v1/services", rest.services)
    app.router.add_get("/v1/services/{namespace}/{name}", rest.service)
    app.router.add_get("/v1/drops", rest.drops)
    app.router.add_get("/v1/verdicts", rest.verdicts)
    app.router.add_get("/v1/translations", rest.translations)
    app.router.add_get("/v1/metrics", rest.metrics)
    app.router.add_put("/v1/host-routing", rest.host_routing)
    return app


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors are JSON too: ``{"error": "..."}``."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response({"error": error.text or error.reason}, status=error.status)
    except (DatapathError, BpfError) as error:
        return web.json_response({"error": str(error)}, status=503)
    except CniError as error:
        return web.json_response({"error": error.msg}, status=503)
    except Exception as error:
        log.exception("%s %s", request.method, request.path)
        return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=500)


class Rest:
    """Handlers of the REST API; docs/architecture.md has the table."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    async def status(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._agent.status())

    async def health(self, request: web.Request) -> web.Response:
        ok, checks = await self._agent.health(probe=request.query.get("probe", "0") not in ("0", "false", ""))
        body = {
            "ok": ok,
            "checks": [check.to_dict() for check in checks],
            "probed_at": self._agent.prober.last_round,
        }
        return web.json_response(body, status=200 if ok else 503)

    async def endpoints(self, _request: web.Request) -> web.Response:
        endpoints = self._agent.endpoints
        if endpoints is None:
            raise web.HTTPServiceUnavailable(text=f"not ready: {'; '.join(self._agent.reasons())}")
        policies = self._agent.policies
        found = [{**endpoint_json(item), **policies.endpoint(item.key)} for item in endpoints.all()]
        return web.json_response({"endpoints": found})

    async def endpoint(self, request: web.Request) -> web.Response:
        address, endpoints = request.match_info["address"], self._agent.endpoints
        for item in endpoints.all() if endpoints is not None else ():
            if item.address == address:
                more = await self._agent.run(partial(self._agent.policies.endpoint, item.key, entries=True))
                return web.json_response({**endpoint_json(item), **more})
        raise web.HTTPNotFound(text=f"there is no endpoint with address {address}")

    async def policies(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._agent.run(self._agent.policies.listed))

    async def policy(self, request: web.Request) -> web.Response:
        names = (request.match_info.get(name) for name in ("kind", "namespace", "name"))
        key = "/".join(name for name in names if name)
        value = await self._agent.run(self._agent.policies.details, key)
        if value is None:
            raise web.HTTPNotFound(text=f"there is no policy {key}")
        return web.json_response(value)

    async def trace(self, request: web.Request) -> web.Response:
        try:
            question = parse_question(await _json_body(request))
            return web.json_response(await self._agent.run(self._agent.policies.trace, question))
        except TraceError as error:
            raise web.HTTPBadRequest(text=str(error)) from error

    async def identities(self, _request: web.Request) -> web.Response:
        return web.json_response({"identities": await self._agent.run(self._agent.policies.identities)})

    async def identity(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        for item in await self._agent.run(self._agent.policies.identities):
            if str(item["identity"]) == number:
                return web.json_response(item)
        raise web.HTTPNotFound(text=f"this node knows no identity {number}")

    async def services(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._agent.run(self._agent.services.listed))

    async def service(self, request: web.Request) -> web.Response:
        name = Name(request.match_info["namespace"], request.match_info["name"])
        value = await self._agent.run(self._agent.services.details, name)
        if value is None:
            raise web.HTTPNotFound(text=f"there is no service {name}")
        return web.json_response(value)

    async def drops(self, request: web.Request) -> web.Response:
        return await self._events(request, self._agent.events.drops)

    async def verdicts(self, request: web.Request) -> web.Response:
        return await self._events(request, self._agent.events.verdicts)

    async def translations(self, request: web.Request) -> web.Response:
        return await self._events(request, self._agent.events.translations)

    async def _events(self, request: web.Request, log: EventLog) -> web.Response:
        answer = await log.since(
            _integer(request, "since", 0),
            limit=_integer(request, "limit", 100),
            wait=_seconds(request, "wait"),
        )
        return web.json_response(answer)

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._agent.metrics())

    async def host_routing(self, request: web.Request) -> web.Response:
        mode, dry_run = parse_host_routing(await _json_body(request))
        return web.json_response(await self._agent.set_host_routing(mode, dry_run=dry_run))


async def _json_body(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"the request is not JSON: {error}") from error


def parse_host_routing(body: Any) -> tuple[str, bool]:
    """Mode and dry run of a request body. Raises HTTPBadRequest saying what is wrong."""
    if not isinstance(body, dict) or body.get("mode") not in ("ebpf", "legacy"):
        raise web.HTTPBadRequest(text='mode must be "ebpf" or "legacy"')
    dry_run = body.get("dry_run", False)
    if not isinstance(dry_run, bool):
        raise web.HTTPBadRequest(text="dry_run must be true or false")
    unknown = sorted(set(body) - {"mode", "dry_run"})
    if unknown:
        raise web.HTTPBadRequest(text=f"unknown keys: {', '.join(unknown)}")
    return str(body["mode"]), dry_run


def endpoint_json(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as the REST API shows it."""
    value = {name: item for name, item in asdict(endpoint).items() if name != "netns_id"}
    mappings = [mapping._asdict() for mapping in endpoint.port_mappings]
    return {**value, "port_mappings": mappings, "health": endpoint.health}


def _integer(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or len(text) > 18:
        raise web.HTTPBadRequest(text=f"{name} must be a whole number, not {text!r}")
    return int(text)


def _seconds(request: web.Request, name: str) -> float:
    text = request.query.get(name, "0")
    try:
        value = float(text)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{name} must be seconds, not {text!r}") from error
    if not 0 <= value <= MAX_WAIT:
        raise web.HTTPBadRequest(text=f"{name} must be from 0 to {MAX_WAIT:g} seconds")
    return value
