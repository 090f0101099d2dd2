"""The processes of one job: ``torchrun`` and ``accelerate launch`` start them, Accelerate connects them."""

from __future__ import annotations

import atexit
import datetime
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cahp_plugin.errors import CAHPError, ConfigError

Value = TypeVar("Value")


class Processes:
    """This process among all that work on one job; alone unless a launcher started several.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Device of this process where there are several; ``None`` for one, which leaves a model where it is.
    """

    def __init__(self) -> None:
        self.rank, self.size, self.device = 0, 1, None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            import torch
            from accelerate import PartialState

            # All wait while the first chooses, repairs or writes.
            state = PartialState(cpu=not torch.cuda.is_available(), timeout=datetime.timedelta(hours=12))
            self.rank, self.size, self.device = state.process_index, state.num_processes, state.device
            # Threads of a connection that is still up abort about half of all processes at their exit (torch 2.13).
            atexit.register(state.destroy_process_group)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, make: Callable[[], Value], source: int = 0) -> Value:
        """Makes a value in one process and hands it to all; an error there is raised in all.

        Args:
            make: Called in the process ``source``; what it returns must be picklable, its tensors on the CPU.
            source: The process.

        Raises:
            CAHPError: Another process was lost.
        """
        if self.size == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        sent: list[Any] = [None, None]
        if self.rank == source:
            try:
                sent[0] = make()
            except Exception as error:
                sent[1] = error
        self._together(lambda: broadcast_object_list(sent, from_process=source))
        if sent[1] is not None:
            raise sent[1]
        return sent[0]

    def all(self, value: Value) -> list[Value]:
        """The values of all processes, in the order of their ranks.

        Raises:
            CAHPError: Another process was lost.
        """
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return self._together(lambda: gather_object([value]))

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Makes sure that all processes were given the same.

        Args:
            values: Name -> something that can be compared and pickled.

        Raises:
            ConfigError: Some differ; in all processes.
        """
        others = self.all(dict(values))
        different = [name for name in values if any(other[name] != others[0][name] for other in others)]
        if different:
            seen = "; ".join(f"{name}: {', '.join(str(other[name]) for other in others)}" for name in different)
            raise ConfigError(
                f"The {self.size} processes differ in what they were given ({seen}). Start all with the same "
                "arguments, data in the same order, and versions."
            )

    def _together(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (RuntimeError, ValueError, EOFError) as error:  # whatever the backend raises when a connection is lost
            raise CAHPError(
                f"Another of the {self.size} processes ended early, so this one can't go on: {str(error)[:200]}"
            ) from error


@functools.cache
def processes() -> Processes:
    """The processes of this job; the connection is made at the first call."""
    return Processes()
