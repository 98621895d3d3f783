"""``podwire-agent``: read the configuration, serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from podwire import __version__
from podwire.agent.config import DEFAULT_PATH, AgentConfig, ConfigError, load_config, require_root

log = logging.getLogger("podwire.agent")

_M_ARENA_MAX = -8
EXIT_CONFIG = 78
"""sysexits.h EX_CONFIG: starting again does not help until the configuration is changed."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        require_root()
        _one_memory_arena()
        config = load_config(options.config)
        logging.basicConfig(level=config.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("asyncio").setLevel(logging.WARNING)
        with _only_one(config):
            return _clean_up(config) if options.cleanup else asyncio.run(_serve(config))
    except ConfigError as error:
        print(f"podwire-agent: {error}", file=sys.stderr)
        return EXIT_CONFIG


def _one_memory_arena() -> None:
    """Let all threads share one heap. By default each gets its own of up to 64 MB that it hardly gives back,
    and the interpreter lock leaves no contention to avoid."""
    with contextlib.suppress(AttributeError):  # a libc without mallopt
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="podwire-agent", description="The node agent of podwire.")
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_PATH,
        metavar="FILE",
        help=f"configuration (default: {DEFAULT_PATH})",
    )
    parser.add_argument(
        "--cleanup",
        action="store_true",
        help="remove everything podwire put on this node, then exit (agent stopped)",
    )
    parser.add_argument("--version", action="version", version=f"podwire-agent {__version__}")
    return parser


@contextlib.contextmanager
def _only_one(config: AgentConfig) -> Iterator[None]:
    """Two agents on one node would undo each other's work. Raises ConfigError when another one runs."""
    path = config.run_dir / "agent.lock"
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True, mode=0o755)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"run_dir {config.run_dir}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise ConfigError(
            f"another podwire-agent holds {path}; stop it first: systemctl stop podwire-agent"
        ) from error
    try:
        yield
    finally:
        os.close(fd)


async def _serve(config: AgentConfig) -> int:
    from podwire.agent.api import SocketError, cni_app, rest_app, serve
    from podwire.agent.daemon import Agent
    from podwire.agent.notify import notify

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    agent = Agent(config)
    runners = []
    try:
        runners.append(await serve(rest_app(agent), config.agent_socket))
        runners.append(await serve(cni_app(agent), config.cni_socket))
    except SocketError as error:
        for runner in runners:
            await runner.cleanup()
        raise ConfigError(str(error)) from error
    agent.start()
    gc.freeze()  # what was imported stays for good: the collector need not look at it again
    notify("READY=1")
    log.info("podwire-agent %s serves on %s and %s", __version__, config.agent_socket, config.cni_socket)
    failed = asyncio.create_task(agent.failed())
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({failed, stop}, return_when=asyncio.FIRST_COMPLETED)
    notify("STOPPING=1")
    agent.refuse()
    for runner in runners:
        await runner.cleanup()
    stop.cancel()
    if failed.done():
        log.critical("background work ended", exc_info=failed.exception())
        return 1
    failed.cancel()
    await agent.stop()
    return 0


def _clean_up(config: AgentConfig) -> int:
    from podwire.agent.cleanup import cleanup

    failures = cleanup(config)
    for failure in failures:
        print(f"podwire-agent: not removed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
