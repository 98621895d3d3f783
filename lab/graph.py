"""Things that depend on each other, done side by side in an order that respects it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Value = TypeVar("Value")


def check(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Names in an order where each comes after what it needs. ``ValueError`` for a cycle or unknown name."""
    order: list[str] = []
    left = dict(needs)
    for name, needed in needs.items():
        unknown = [item for item in needed if item not in needs]
        if unknown:
            raise ValueError(f"{name} needs {', '.join(unknown)}, which is not there")
    while left:
        ready = [name for name in left if all(item in order for item in left[name])]
        if not ready:
            raise ValueError(f"these need each other: {', '.join(sorted(left))}")
        order += ready
        for name in ready:
            del left[name]
    return order


def run_all(
    needs: Mapping[str, Sequence[str]],
    work: Callable[[str, Mapping[str, Value]], Value],
    *,
    width: int = 8,
    on_failure: Callable[[], object] = lambda: None,
) -> dict[str, Value]:
    """Do ``work(name, results so far)`` for every name, each as soon as what it needs is there.

    The order of ``needs`` decides who begins first. After the first failure nothing new begins,
    ``on_failure`` is called (to stop what runs), and the failure is raised when all have ended.
    """
    check(needs)
    results: dict[str, Value] = {}
    running: dict[Future[Value], str] = {}
    failure: BaseException | None = None
    with ThreadPoolExecutor(width) as pool:

        def begin() -> None:
            for name, needed in needs.items():
                known = name in results or name in running.values()
                if not known and all(item in results for item in needed):
                    running[pool.submit(work, name, dict(results))] = name

        try:
            begin()
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    error = future.exception()
                    if error is None:
                        results[name] = future.result()
                    elif failure is None:
                        failure = error
                        on_failure()
                if failure is None:
                    begin()
        except BaseException:
            on_failure()
            raise
    if failure:
        raise failure
    return results
