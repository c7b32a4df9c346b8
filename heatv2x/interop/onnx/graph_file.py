"""A stage to a file, and the proof that the file computes what the model computes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heatv2x.evaluation.cost import Stopwatch
from heatv2x.interop.onnx.stage import ExportError, ExportStage, Outputs, Port

_SEED = 20
_NOISE = ("torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")


@dataclass
class Written:
    """A file and what is known of it.

    Attributes:
        stage: what it computes.
        path: where it is.
        difference: by number of agents, the largest difference from the model (see `difference`).
        opset: version of the operators.
        seconds: by number of agents, CPU seconds of one call, by who computes.
        compile_seconds: CPU seconds that torch.compile took for all numbers; 0 if it was not asked for.
    """

    stage: ExportStage
    path: Path
    difference: dict[int, float] = field(default_factory=dict)
    opset: int = 0
    seconds: dict[int, dict[str, float]] = field(default_factory=dict)
    compile_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        content = self.path.read_bytes()
        ports = session_ports(open_session(self.path))
        return {
            "name": self.stage.name,
            "file": self.path.name,
            "about": self.stage.about,
            "inputs": [_port(port, ports[port.name]) for port in self.stage.inputs],
            "outputs": [_port(port, ports[port.name]) for port in self.stage.outputs],
            "opset": self.opset,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "difference": {str(number): value for number, value in self.difference.items()},
            "cpu_seconds": {str(number): value for number, value in self.seconds.items()},
            "compile_cpu_seconds": self.compile_seconds,
        }


def write_stage(stage: ExportStage, path: Path) -> Written:
    """Write one stage as an ONNX file with its weights inside.

    Raises:
        ExportError: torch or its exporter cannot.
    """
    example, axes = stage.example(3, _random()), (_dynamic(stage),)
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(_Call(stage), example.inputs, dynamic_shapes=axes)
            written = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[port.name for port in stage.inputs],
                output_names=[port.name for port in stage.outputs],
                dynamic_shapes=axes,  # the program has them already; this is for their names
                custom_translation_table={torch.ops.aten.hypot.default: _hypot},
                verbose=False,
            )
            assert written is not None
            written.save(path, external_data=False)
    # torch runs the part's own code on tensors without numbers and lets through whatever that code then raises, besides
    # its own RuntimeErrors; a user is told which part it was, and the cause stays chained
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"{stage.part} cannot be exported to ONNX: {reason}") from error
    return Written(stage, path, opset=written.model.opset_imports[""])


def check(written: Written, numbers: Sequence[int], tolerance: float) -> None:
    """Compare the file in onnxruntime with the model, for several numbers of agents.

    Raises:
        ExportError: it differs by more than the tolerance.
    """
    session, stage = open_session(written.path), written.stage
    for number in numbers:
        example = stage.example(number, _random())
        with torch.no_grad():
            expected = example.expected()
        worst = _worst(stage, run(session, example.inputs), expected)
        if not worst <= tolerance:
            raise ExportError(_differs(stage, number, "onnxruntime", worst, tolerance))
        written.difference[number] = worst


def difference(name: str, found: Tensor, expected: Tensor) -> float:
    """The largest difference, divided by the largest value or 1; yes-or-no values must be equal.

    Raises:
        ExportError: the shapes or types differ.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        kinds = [f"{tuple(t.shape)} {t.dtype}" for t in (found, expected)]
        raise ExportError(f"output '{name}': onnxruntime gives {kinds[0]}, torch {kinds[1]}")
    if expected.dtype == torch.bool:
        return 0.0 if torch.equal(found, expected) else float("inf")
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def measure_session(
    written: Written, numbers: Sequence[int], repeats: int, compiled: ExportStage | None = None, tolerance: float = 0.0
) -> None:
    """Fill in CPU seconds of one call: the median of `repeats` rounds in which each runtime computes in turn.

    Args:
        compiled: the same stage of a model whose networks compile when they are first called; how long that takes is
            filled in, too.
        tolerance: for what it computes.

    Raises:
        ExportError: what was compiled computes something else.
    """
    session = open_session(written.path)
    for number in numbers:
        example = written.stage.example(number, _random())
        calls: dict[str, Callable[[], Outputs]] = {
            "torch": example.expected,
            "onnxruntime": functools.partial(run, session, example.inputs),
        }
        if compiled is not None:
            calls["compiled"] = compiled.example(number, _random()).expected
        with torch.no_grad():
            for who, call in calls.items():
                first = Stopwatch()
                with first:
                    found = call()
                if who == "compiled":
                    written.compile_seconds += first.cpu_s
                    worst = _worst(written.stage, found, example.expected())
                    if not worst <= tolerance:
                        raise ExportError(_differs(written.stage, number, "torch.compile", worst, tolerance))
            rounds = [{who: _cpu_seconds(call) for who, call in calls.items()} for _ in range(repeats)]
        written.seconds[number] = {who: statistics.median(each[who] for each in rounds) for who in calls}


def open_session(file: Path | bytes) -> Any:
    """An onnxruntime session on the CPU with as many threads as torch has, which do not spin while they wait."""
    import onnxruntime  # noqa: PLC0415 - an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        str(file) if isinstance(file, Path) else file, options, providers=["CPUExecutionProvider"]
    )


def run(session: Any, inputs: Sequence[Tensor]) -> Outputs:
    """One call, torch tensors on both sides."""
    names = [port.name for port in session.get_inputs()]
    found = session.run(None, {name: np.asarray(value) for name, value in zip(names, inputs, strict=True)})
    return tuple(torch.from_numpy(value) for value in found)


def session_ports(session: Any) -> dict[str, str]:
    """By name, the type of every tensor that goes in or comes out."""
    return {
        port.name: port.type.removeprefix("tensor(").rstrip(")")
        for port in session.get_inputs() + session.get_outputs()
    }


def require_packages() -> None:
    """Check that the packages of the extra 'export' are installed.

    Raises:
        ExportError: names what to install.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"exporting needs {', '.join(missing)}, which the extra 'export' installs.\n"
            "  Way out: pip install 'heatv2x[export]'"
        )


def _hypot(x: Any, y: Any) -> Any:
    """What the exporter lacks: the length of the hypotenuse."""
    from onnxscript import opset18 as op  # noqa: PLC0415 - an extra

    return op.Sqrt(op.Add(op.Mul(x, x), op.Mul(y, y)))


class _Call(torch.nn.Module):
    """A stage whose inputs are one list, however its `forward` names them."""

    def __init__(self, stage: ExportStage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, *inputs: Tensor) -> Outputs:
        outputs: Outputs = self.stage(*inputs)
        return outputs


def _dynamic(stage: ExportStage) -> tuple[Any, ...]:
    """Which axes may vary, for torch.export; axes that count agents hold at least one."""
    dims: dict[str, Any] = {}
    for port in stage.inputs:
        for axis in port.axes:
            if isinstance(axis, str) and axis not in dims:
                dims[axis] = torch.export.Dim(axis, min=1 if axis == stage.counted else 0)
    return tuple({i: dims[axis] for i, axis in enumerate(port.axes) if isinstance(axis, str)} for port in stage.inputs)


def _port(port: Port, kind: str) -> dict[str, Any]:
    return {"name": port.name, "type": kind, "axes": list(port.axes), "about": port.about}


def _random() -> torch.Generator:
    return torch.Generator().manual_seed(_SEED)


def _worst(stage: ExportStage, found: Outputs, expected: Outputs) -> float:
    names = [port.name for port in stage.outputs]
    return max(difference(*three) for three in zip(names, found, expected, strict=True))


def _differs(stage: ExportStage, number: int, who: str, worst: float, tolerance: float) -> str:
    return (
        f"{stage.name}: for {number} {stage.counted} {who} differs from torch by {worst:.1e} of the largest value, "
        f"more than tolerance={tolerance:g}; nothing was written"
    )


def _cpu_seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says about itself: packages it could have used, its own deprecated calls."""
    loggers = [logging.getLogger(name) for name in _NOISE]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
