"""From an order to a run: its folder, its records, its signals, its place among processes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from upscaler.errors import UserError
from upscaler.model import winograd
from upscaler.model.device import is_out_of_memory
from upscaler.model.events import Uncompiled
from upscaler.model.web import Progress
from upscaler.model.weights import Weights
from upscaler.saving import LOCK, alone_in, explained, whole_file
from upscaler.training.config import Config, config_text, differences
from upscaler.training.loop import Notify, Run
from upscaler.training.orders import Order
from upscaler.training.processes import Processes, joined
from upscaler.training.readings import Event, Finished, Stepped
from upscaler.training.recording import Recorder
from upscaler.training.runs import RunFolder
from upscaler.training.shards import PreparedSet


@dataclass(frozen=True)
class Origin:
    """The data of a run.

    Args:
        data: folder of the training set.
        identity: of the set, from its manifest.
        val: folder of validation pictures; None for the set's own.
        init: SHA-256 of the weights that the run began with, if it was given any.
    """

    data: Path
    identity: str
    val: Path | None
    init: str

    @classmethod
    def of(cls, data: PreparedSet, val: Path | None, init: str = "") -> Origin:
        """The data as they are now."""
        return cls(data.folder.resolve(), str(data.manifest.get("identity", "")), val and val.resolve(), init)

    @classmethod
    def read(cls, folder: RunFolder) -> Origin:
        """What a run was begun with.

        Raises:
            UserError: there is no run in the folder.
        """
        try:
            content = json.loads(folder.origin.read_text(encoding="utf-8"))
            val = content["val"] and Path(content["val"])
            return cls(Path(content["data"]), content["identity"], val, content["init"])
        except FileNotFoundError as error:
            raise UserError(f"there is no run in {folder.path}; begin one with --preset") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder.origin} is damaged or cannot be read") from error

    def check(self, data: PreparedSet) -> None:
        """See that a training set is the one that the run was begun with.

        Raises:
            UserError: it is another.
        """
        if self.of(data, None).identity != self.identity:
            raise UserError(f"{data.folder} is not the training set that the run was begun with")

    def write(self, folder: RunFolder) -> None:
        """Write it into a run's folder.

        Raises:
            UserError: it cannot be written.
        """
        val = self.val and str(self.val)
        content = {"data": str(self.data), "identity": self.identity, "val": val, "init": self.init}
        with whole_file(folder.origin) as file:
            file.write(json.dumps(content, indent=1).encode())


def train(
    order: Order,
    *,
    init: Weights | None,
    resume: bool,
    notify: Notify,
    warn: Callable[[str], None],
    progress: Progress | None = None,
) -> Finished:
    """Train, from the beginning or from where a run was.

    SIGINT and SIGTERM end it after the step at hand, with everything saved, and then do what they did before; the
    second one does it at once.

    Args:
        order: what to do.
        init: weights to begin with.
        resume: go on with the run in the folder.
        notify: told of every event, in the first process alone.
        warn: told what a person should know although the work goes on.
        progress: told of (bytes done, bytes in all) while weights of a VGG are downloaded.

    Raises:
        UserError: whatever a person must mend. What was saved stays good.
    """
    with _shortages(order), _asked_to_stop(warn) as asked, joined(order.device) as processes:
        finished = _train(order, processes, init, resume, asked, notify, warn, progress)
    if finished.why == "signal" and asked.number:
        signal.raise_signal(asked.number)
    return finished


@contextmanager
def _shortages(order: Order) -> Iterator[None]:
    """What the machine has too little of becomes one line that says what to do."""
    again = f"go on with --resume {order.folder.path}, or begin another run with"
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise UserError(
                f"out of memory on {order.device}; free some and {again} a smaller data.batch or data.patch, a larger "
                "data.accumulate, or engine.checkpointing=true"
            ) from error
        if "DataLoader worker (pid" in str(error):
            raise UserError(
                f"a process that prepares batches was killed, mostly for want of memory; {again} a smaller data.workers"
            ) from error
        raise


def _train(
    order: Order,
    processes: Processes,
    init: Weights | None,
    resume: bool,
    asked: threading.Event,
    notify: Notify,
    warn: Callable[[str], None],
    progress: Progress | None,
) -> Finished:
    folder = order.folder
    recorder: Recorder | None = None
    alone = partial(alone_in, folder.path, f"another srup train is at work in {folder.path}")

    def tell(event: Event | Stepped) -> None:
        if recorder is not None and not isinstance(event, Stepped):
            recorder.record(event)
        notify(event)

    with ExitStack() as stack:
        if processes.first and not resume:
            check_fresh(folder)
        elif processes.first:
            stack.enter_context(alone())
        run = Run(order, processes, asked, tell, progress)
        step = run.resume() if resume else None
        if resume and step is None:
            if Origin.read(folder).init:
                raise UserError(
                    f"the run in {folder.path} was killed before its first checkpoint; begin it again elsewhere"
                )
            step = 0
        if init is not None and not resume:
            run.begin_with(init)
        if step == order.config.steps:
            finished = Finished(folder.path, step, "complete", folder.weights("last"), folder.report)
            if processes.first:
                if not folder.report.exists():  # it was killed before
                    run.report("complete")
                notify(finished)
            return finished
        if not processes.first:
            return run.go()
        for line in run.passed_over:
            warn(f"passed over: {line}")
        validation = run.supply.validation
        for line in validation.left_out if validation else ():
            warn(f"left out of validation: {line}")
        if validation and len(validation) < validation.available:
            warn(f"validating with {len(validation)} of {validation.available} pictures, see validation.pictures")
        direct = all(stage.engine.compile for stage in order.config.stages)
        if order.device.type == "cpu" and winograd.available() and not direct:
            if not winograd.ready():
                warn("convolutions are being compiled for this CPU, once, which takes some seconds")
            if not winograd.usable():
                warn(str(Uncompiled(winograd.failure())))
        if run.supply.unused:
            warn("the training set's LR pictures are not used; --set data.lr=auto takes them")
        if validation is None:
            warn("there is nothing to validate with; give --val, or prepare the data with --validation 5%")
        if not resume:
            stack.enter_context(alone())
            check_fresh(folder)
            Origin.of(order.data, order.val, init.digest if init else "").write(folder)
            with whole_file(folder.config) as file:
                file.write(config_text(order.config).encode())
        recorder = Recorder(folder, resumed_at=step)
        try:
            return run.go()
        finally:
            recorder.close()


def check_fresh(folder: RunFolder) -> None:
    """See that nothing is in a new run's folder.

    Raises:
        UserError: something is.
    """
    if folder.config.exists():
        raise UserError(f"{folder.path} holds a run; go on with --resume {folder.path}, or use another -o")
    with explained(folder.path):
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"{folder.path} is a file; -o takes a new or empty folder")
        if folder.path.exists() and any(entry.name != LOCK for entry in folder.path.iterdir()):
            raise UserError(f"{folder.path} is in use; -o takes a new or empty folder")


def check_same(folder: RunFolder, begun: Config, wanted: Config) -> None:
    """See that a run goes on as it was begun.

    Raises:
        UserError: something else is wanted of it.
    """
    if different := differences(begun, wanted):
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"the run in {folder.path} has another configuration: {', '.join(different[:3])}{more}; "
            "leave the settings out to go on with it, or begin another run with --init"
        )


def restarted(folder: RunFolder) -> bool:
    """Whether ``torchrun`` has started this command again, and its run is there to go on with.

    It does so after a failure, and when machines come or go, which it does not count as a restart.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ and folder.config.exists()


class _Asked(threading.Event):
    """Set by the signal of that number."""

    number: int | None = None


@contextmanager
def _asked_to_stop(warn: Callable[[str], None]) -> Iterator[_Asked]:
    """An event that the first SIGINT or SIGTERM sets; the second does what it did before."""
    asked = _Asked()
    before: dict[int, Any] = {}

    def answer() -> None:
        asked.wait()
        if asked.number is not None:
            warn("stopping after this step; once more stops at once")

    def ask(number: int, _: FrameType | None) -> None:
        asked.number = number
        asked.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    # The thread that a signal interrupts may be writing a line itself.
    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    try:
        yield asked
    finally:
        for asking, handler in before.items():  # a signal while the event is being set would wait for it for ever
            signal.signal(asking, handler)
        asked.set()
        answering.join()
