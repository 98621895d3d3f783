"""Tell a person what is going on: which steps run, what each does, how long it has been at it.

On a terminal the running steps are redrawn in place; elsewhere (CI, a pipe) a line is printed when a step
begins and ends and every half minute in between. Everything a step says goes to its log file.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

QUIET_SECONDS = 30.0


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 05 s. Pure."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


@dataclass
class Step:
    """A piece of work in progress. ``log`` takes its output, line by line, from any thread."""

    title: str
    file: Path
    clock: Callable[[], float]
    started: float = 0.0
    detail: str = ""
    result: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def log(self, line: str) -> None:
        text = str(line).rstrip()
        with self._lock, self.file.open("a") as file:
            file.write(text + "\n")
        if text.strip():
            self.detail = text.strip()

    @property
    def elapsed(self) -> float:
        return self.clock() - self.started


class Progress:
    """The steps of a run. Steps may run side by side, in threads."""

    def __init__(self, console: Console, logs: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.logs = logs
        self.timings: list[tuple[str, float]] = []
        self._clock = clock
        self._began = clock()
        self._running: list[Step] = []
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._stop = threading.Event()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._began

    @contextlib.contextmanager
    def shown(self) -> Iterator[Progress]:
        """Show running steps while the context lasts."""
        self.logs.mkdir(parents=True, exist_ok=True)
        if self.console.is_terminal:
            with Live(
                console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True
            ) as live:
                self._live = live
                try:
                    yield self
                finally:
                    self._live = None
            return
        ticker = threading.Thread(target=self._tick, daemon=True)
        ticker.start()
        try:
            yield self
        finally:
            self._stop.set()
            ticker.join(5)

    @contextlib.contextmanager
    def step(self, title: str, *, log_name: str = "") -> Iterator[Step]:
        """A step: announced, timed, and ended with its ``result`` or as failed."""
        name = log_name or title.lower().replace(" ", "-")
        self.logs.mkdir(parents=True, exist_ok=True)
        step = Step(title, self.logs / f"{name}.log", self._clock, self._clock())
        step.file.write_text("")
        with self._lock:
            self._running.append(step)
        if not self.console.is_terminal:
            self.console.print(f"  ...  {title}", highlight=False, markup=False)
        try:
            yield step
        except BaseException:
            self._end(step, "failed", "red")
            raise
        self._end(step, "done", "green")

    def note(self, text: str) -> None:
        """One line for the person, beside the steps."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _end(self, step: Step, word: str, style: str) -> None:
        with self._lock:
            self._running.remove(step)
        self.timings.append((step.title, step.elapsed))
        line = Text.assemble(
            (f" {word:>5} ", style),
            step.title,
            (f"  {duration(step.elapsed)}", "cyan"),
            (f"  {step.result}" if step.result else "", "dim"),
        )
        self.console.print(line, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._lock:
            steps = list(self._running)
        width = max(20, self.console.width - 1)
        return Group(*(_line(step, width) for step in steps))

    def _tick(self) -> None:
        while not self._stop.wait(QUIET_SECONDS):
            with self._lock:
                steps = list(self._running)
            for step in steps:
                line = f"  ...  {step.title}: {duration(step.elapsed)} so far: {step.detail[:120]}"
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _line(step: Step, width: int) -> Text:
    text = Text.assemble(
        ("  ...  ", "yellow"), step.title, (f"  {duration(step.elapsed)}  ", "cyan"), (step.detail, "dim")
    )
    text.truncate(width, overflow="ellipsis")
    return text
