"""A watch for operators whose result the host has to wait for."""

from torch import bool as torch_bool
from torch import uint8
from torch.utils._python_dispatch import TorchDispatchMode


class NoWaiting(TorchDispatchMode):
    """Fails at operators whose values or sizes have to come from the device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        waits = name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")
        if name.startswith("index") and isinstance(args[1], list | tuple):
            indices = [index for index in args[1] if index is not None]
            waits |= any(index.dtype in (torch_bool, uint8) for index in indices)
        assert not waits, f"waits for the device: {function}"
        return function(*args, **(kwargs or {}))
