"""Fast convolutions on the CPU for an engine: when a picture is worth them, and the memory they keep."""

from __future__ import annotations

from upscaler.model import winograd
from upscaler.model.events import Compiling, Notify, Uncompiled
from upscaler.model.winograd_layers import Accelerated

# Multiplications asked of an engine from which on fast convolutions are worth the half second in which their kernels
# are loaded, and the ten in which they are compiled when a user needs them for the first time.
_WORTH_LOADING = 7e10
_WORTH_COMPILING = 7e11


class Acceleration:
    """What an engine has beside its network to compute the same faster.

    Args:
        network: the same by fast convolutions.
        notify: told of kernels that are compiled, or do not work.
    """

    def __init__(self, network: Accelerated, notify: Notify) -> None:
        self.network = network
        self._notify = notify
        self._asked = 0.0
        self._used = False
        # What was there before is not counted again.
        new = winograd.KERNEL_BYTES if winograd.ready() else winograd.COMPILER_BYTES
        self._kernel_bytes = 0 if winograd.loaded() else new
        self._workspace_before = winograd.WORKSPACE.size

    def pays(self, operations: float) -> bool:
        """Whether so many more multiplications are worth it. Nothing is loaded to know."""
        if not winograd.available():
            return False
        least = _WORTH_LOADING if winograd.ready() else _WORTH_COMPILING
        return winograd.loaded() or self._asked + operations >= least

    def asked(self, operations: float) -> None:
        """Count multiplications that are going to be done, in either way."""
        self._asked += operations

    def held(self, height: int, width: int) -> int:
        """Bytes that are kept once the network has run over so many pixels, or over the same turned by 90 degrees."""
        longest = -(-max(height, width) // self.network.unshuffle)
        workspace = max(self.network.workspace_floats(longest), self._grown)
        return 4 * (self.network.weight_floats + workspace) + self._kernel_bytes

    @property
    def kept(self) -> int:
        """Bytes that are kept by now."""
        return 4 * (self.network.weight_floats + self._grown) + self._kernel_bytes if self._used else 0

    @property
    def _grown(self) -> int:
        return winograd.WORKSPACE.size - self._workspace_before

    @property
    def compiled(self) -> bool:
        """Whether kernels can be used without compiling them first."""
        return winograd.available() and (winograd.loaded() or winograd.ready())

    def load(self) -> bool:
        """Load or compile the kernels; whether they work."""
        first = not winograd.loaded()
        if first and not winograd.ready():
            self._notify(Compiling())
        self._used = winograd.usable()
        if first and not self._used:
            self._notify(Uncompiled(winograd.failure()))
        return self._used
