"""Walks that show how far they are, and end when something newer is asked for."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from betadiffusion.samplers import Callback

T = TypeVar("T")

INTERVAL = 0.1  # seconds between pictures of a walk
PAUSE = 0.0002  # seconds between steps, for another walk to take its turn
MOST_SESSIONS = 1_000
STEPPING = threading.Lock()  # more than one step at a time would take the cores from each other


class Superseded(Exception):
    """Raised inside a walk whose result nobody waits for."""


class Step(NamedTuple):
    """Where a walk is: `done` steps taken, latents z (B,C,h,w) at a level (0-d)."""

    done: int
    z: Tensor
    level: Tensor


class Result(NamedTuple, Generic[T]):
    """What the walk returned."""

    value: T


class Newest:
    """What each session asked for last."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, Hashable] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, session: str, what: Hashable) -> None:
        """From now on a session wants `what`; of very many sessions the oldest are forgotten."""
        with self._lock:
            self._asked[session] = what
            self._asked.move_to_end(session)
            while len(self._asked) > MOST_SESSIONS:
                self._asked.popitem(last=False)

    def wants(self, session: str, what: Hashable) -> bool:
        """Whether a session has asked for nothing else since."""
        return self._asked.get(session, what) == what


def walk_in_steps(walk: Callable[[Callback], T], wanted: Callable[[], bool]) -> Iterator[Step | Result[T]]:
    """Runs walk(callback) beside, and yields its newest `Step` now and then, last its `Result`.

    Ends at the next step, without a result, where it is no longer `wanted` or the iterator is closed; raises what the
    walk raises. Several walks take turns, step by step.
    """
    news: SimpleQueue[Step | Result[T] | BaseException] = SimpleQueue()
    closed = threading.Event()

    def step(i: int, z: Tensor, level: Tensor) -> None:
        news.put(Step(i + 1, z, level))
        STEPPING.release()
        time.sleep(PAUSE)
        STEPPING.acquire()
        if closed.is_set() or not wanted():
            raise Superseded

    def work() -> None:
        try:
            with STEPPING:
                result = walk(step)
            news.put(Result(result))
        except BaseException as error:
            news.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            new = news.get()
            while isinstance(new, Step) and not news.empty():
                new = news.get()
            if isinstance(new, Superseded):
                return
            if isinstance(new, BaseException):
                raise new
            started = time.perf_counter()
            yield new
            if isinstance(new, Result):
                return
            time.sleep(max(0.0, INTERVAL - (time.perf_counter() - started)))
    finally:
        closed.set()
