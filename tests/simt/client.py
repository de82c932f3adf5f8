"""Problems as tensors to the runner of the CUDA kernels' bodies, and its answers as tensors."""

import subprocess
from typing import NamedTuple

import torch

from .build import HERE, build

SOURCES = [HERE / "runner.cpp", *sorted(HERE.glob("run_*.cpp"))]
H200 = {"multiprocessors": 132, "capability": 90}
A100 = {"multiprocessors": 108, "capability": 80}


class Spread(NamedTuple):
    """A tensor that the kernels get with other strides, which may be larger than any memory."""

    values: torch.Tensor
    strides: tuple[int, ...]


class Runner:
    """One process that solves problem after problem; what it complains of is an AssertionError."""

    def __init__(self, flavour, folder):
        self.flavour = flavour
        self.program = build(SOURCES, flavour, folder, name="runner")
        self.process = None

    def __call__(self, operator, *, seed=0, gpu=H200, **values):
        """Numbers, strings and tensors by name; None is left out. Returns tensors by name."""
        if self.process is None:
            self.process = subprocess.Popen(
                [self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-1
            )
        message = [f"text operator {operator}\nnumber seed {seed}\n".encode()]
        message += [f"number {name} {value}\n".encode() for name, value in gpu.items()]
        message += [_encoded(name, value) for name, value in values.items() if value is not None]
        try:
            self.process.stdin.write(b"".join(message) + b"run\n")
            self.process.stdin.flush()
            return dict(self._answers())
        except (BrokenPipeError, EOFError):
            _, complaint = self.process.communicate()
            code, self.process = self.process.returncode, None
            raise AssertionError(f"exit status {code}: {complaint.decode()[-4000:]}") from None

    def _answers(self):
        while (line := self.process.stdout.readline()) != b"done\n":
            if not line:
                raise EOFError
            _, name, dtype, n, *rest = line.decode().split()
            sizes = [int(size) for size in rest[: int(n)]]
            data = bytearray(self.process.stdout.read(int(rest[int(n)])))
            x = torch.frombuffer(data, dtype=getattr(torch, dtype)) if data else torch.empty(0)
            yield name, x.to(getattr(torch, dtype)).view(sizes)

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait(60)


def _encoded(name, value):
    if isinstance(value, str):
        return f"text {name} {value}\n".encode()
    if isinstance(value, Spread):
        data = value.values.contiguous().view(torch.uint8).numpy().tobytes()
        return _message("spread", name, value.values, value.strides, 0, data)
    if not isinstance(value, torch.Tensor):
        return f"number {name} {float(value)!r}\n".encode()
    last = sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
    count = last + 1 if value.numel() else 0
    # The storage from the first element to the last, and no further: what lies behind it is not
    # the kernel's to read.
    flat = value.detach().as_strided((count,), (1,), value.storage_offset()).contiguous()
    lead = value.storage_offset() * value.element_size() % 16 if count else 0
    data = bytes(lead) + (flat.view(torch.uint8).numpy().tobytes() if count else b"")
    return _message("tensor", name, value, value.stride(), lead, data)


def _message(kind, name, value, strides, lead, data):
    dtype = str(value.dtype).removeprefix("torch.")
    numbers = " ".join(map(str, [value.ndim, *value.shape, *strides, lead, len(data)]))
    return f"{kind} {name} {dtype} {numbers}\n".encode() + data
