"""What a large cluster costs: memory by the number of services, work by the number of changed ones."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from podwire.service import compile as compiler
from podwire.service import registry as registry_module
from podwire.service.model import Service, Slice
from podwire.service.registry import Registry

from .objects import CONTEXT, endpoint, endpoint_slice, service

COUNT = 500


def objects(count: int) -> Iterator[Service | Slice]:
    for number in range(count):
        name = f"service-{number}"
        yield service(name, clusterIP=f"10.152.{number // 250}.{number % 250 + 1}")
        addresses = (f"10.{number // 250}.{number % 250}.{index}" for index in range(1, 11))
        yield endpoint_slice(*map(endpoint, addresses), name=f"{name}-abcde", service=name)


def filled(count: int) -> Registry:
    value = Registry(CONTEXT)
    for item in objects(count):
        if isinstance(item, Service):
            value.set_service(item)
        else:
            value.set_slice(item)
    while value.flush(100):
        pass
    return value


def test_a_service_with_ten_backends_costs_few_kilobytes() -> None:
    """Ten thousand of them must leave most of the agent's 300 MB to the rest of it."""
    filled(1)  # what is made once
    tracemalloc.start()
    try:
        value = filled(COUNT)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(value.frontends()) == COUNT
    assert used / COUNT < 8_000


def test_a_change_compiles_one_service(monkeypatch: pytest.MonkeyPatch) -> None:
    value = filled(COUNT)
    compiled = []

    def count(item: Service, *rest: object) -> compiler.Compiled:
        compiled.append(item.name.name)
        return compiler.compile_service(item, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(registry_module, "compile_service", count)
    value.set_slice(endpoint_slice(endpoint("10.9.9.9"), name="service-7-abcde", service="service-7"))
    changes = value.flush()
    assert compiled == ["service-7"]
    assert (len(changes.lists), len(changes.frontends), len(changes.removed_lists)) == (1, 1, 1)
