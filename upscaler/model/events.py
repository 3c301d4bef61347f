"""What the engine tells of while it works on a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from upscaler.model.tiles import Box, Plan


@dataclass(frozen=True)
class Worked:
    """Multiplications done since the last such event."""

    operations: float


@dataclass(frozen=True)
class Redone:
    """A tile came out with NaN or infinite values and was computed again in fp32."""

    box: Box


@dataclass(frozen=True)
class Shrunk:
    """Memory ran out; the rest of the picture goes on in smaller tiles."""

    plan: Plan


@dataclass(frozen=True)
class Compiling:
    """The kernels of fast convolutions are being compiled for this CPU, which is done once."""


@dataclass(frozen=True)
class Uncompiled:
    """The kernels of fast convolutions do not work here; PyTorch's own convolutions go on."""

    why: str

    def __str__(self) -> str:
        return f"fast convolutions do not work here ({self.why}); PyTorch's own take longer"


Event = Worked | Redone | Shrunk | Compiling | Uncompiled
Notify = Callable[[Event], None]
