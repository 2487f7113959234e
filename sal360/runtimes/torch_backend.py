"""torch.export programs (.pt2), on the CPU or on CUDA, for machines that have torch anyway."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from sal360.arrays import Density, Pixels
from sal360.errors import ModelError
from sal360.runtimes.backend import ANY_BATCH, Backend, failed, precision_of_graph, refused
from sal360.spec import METADATA_KEY, ModelSpec


class TorchBackend(Backend):
    """A program that `training.export` wrote, in the precision in which it was exported.

    Opening one unpickles it, which can execute arbitrary code: `open_model` requires consent.

    Frames are uint8 with the channels last, and the weights of the convolutions have the same layout, so nothing is
    transposed.
    """

    name = "torch"

    @classmethod
    def is_installed(cls, device: str) -> bool:
        if importlib.util.find_spec("torch") is None:
            return False
        if device == "cpu":
            return True  # importing it takes seconds
        import torch

        return torch.cuda.is_available()

    def _open(self, path: Path, device: str, precision: str, threads: int) -> None:
        import torch

        entries = {METADATA_KEY: ""}
        try:
            program = torch.export.load(str(path), extra_files=entries)
        except Exception as error:  # zip, pickle and schema errors share no other base
            raise refused(self.name, path, error) from None
        if not entries[METADATA_KEY]:
            raise ModelError(
                f"{path} is a torch program without a sal360 spec",
                "export it with python -m training.export --torch_program true",
            )
        self.spec = ModelSpec.from_json(entries[METADATA_KEY], str(path))
        self.device = device
        self.precision = precision_of_graph(precision, self.spec, self.name)
        if threads:
            torch.set_num_threads(threads)  # for the whole process: torch has no other setting
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        self.batch_limits = _batch_limits(program)
        self._torch: Any = torch
        self._module: Any = program.module().to(memory_format=torch.channels_last)

    def _run(self, frames: Pixels) -> Density:
        torch = self._torch
        try:
            with torch.inference_mode():
                batch = torch.from_numpy(frames)
                if self.device != "cpu":
                    batch = batch.pin_memory().to(self.device, non_blocking=True)
                maps: Density = self._module(batch).cpu().numpy()  # waits for the device
        except RuntimeError as error:
            raise failed(self.name, error) from None
        return maps

    def _release(self) -> None:
        self._module = None


def _batch_limits(program: Any) -> tuple[int, int]:
    """Minimum and maximum batch size of a program: fixed, or the range for which it was exported."""
    (frame,) = (node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    batch = frame.meta["val"].shape[0]
    if isinstance(batch, int):
        return batch, batch
    constraint = program.range_constraints.get(batch.node.expr)
    return ANY_BATCH if constraint is None else (max(1, int(constraint.lower)), int(constraint.upper))
