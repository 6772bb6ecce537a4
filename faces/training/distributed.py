"""Several processes that train one model together, started by PyTorch's own launcher, torchrun; one, without it.

`batch_size` stays the size of the whole batch: each process takes its share of it, losses and gradients are means over
the whole batch, and batch norms use the whole batch's statistics. Results are those of a single process, but for the
order in which floating-point sums are formed, and for mixup, which mixes the images of a process's share.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


@contextlib.contextmanager
def processes() -> Iterator[torch.device]:
    """Join the other processes, if torchrun started any; yield this process's device: its GPU, or the processor."""
    launched = dist.is_torchelastic_launched()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", dist.get_node_local_rank(fallback_rank=0))
        torch.cuda.set_device(device)
    if launched:
        dist.init_process_group(device_id=device if device.type == "cuda" else None)
    try:
        yield device
    finally:
        if launched:
            dist.destroy_process_group()


def rank() -> int:
    """Return this process's number, from 0; number 0 writes the results."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def one_per_machine_first() -> Iterator[None]:
    """Let one process of each machine go ahead with what the others then find in the cache."""
    ahead = dist.get_node_local_rank(fallback_rank=0) == 0
    if world_size() > 1 and not ahead:
        dist.barrier()
    yield
    if world_size() > 1 and ahead:
        dist.barrier()


def share(rows: Tensor) -> Tensor:
    """Return this process's part of rows [N]; together, in the order of rank, the parts are `rows`."""
    return rows.tensor_split(world_size())[rank()]


def all_gather(part: Tensor) -> Tensor:
    """Return, to every process, the parts [n, ...] of all, in the order of rank, on the CPU."""
    if world_size() == 1:
        return part.cpu()
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, part.cpu())
    return torch.cat(parts)


def all_reduce(value: Tensor) -> Tensor:
    """Return the sum over all processes; it takes the place of `value`."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def broadcast(value: Any) -> Any:
    """Return, to every process, what the first one gives."""
    values = [value]
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def data_parallel(model: nn.Module) -> nn.Module:
    """Return the model as all processes train it: its gradients are averaged over them."""
    return DistributedDataParallel(model, broadcast_buffers=False) if world_size() > 1 else model


def synchronise_batch_norms(model: nn.Module) -> None:
    """Give each batch norm, in place, the statistics of the whole batch, not of a process's share."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SyncedBatchNorm2d  # its parameters and buffers stay the same objects


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device.

    torch's SyncBatchNorm works on GPUs only, and mixes types in bf16 where a process has no image of a batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a share [N, C, H, W] of the batch; N may be 0 and differ between processes."""
        if not self.training:
            return super().forward(x)
        dims = (0, 2, 3)
        shape = (1, -1, 1, 1)
        values = x.float()
        n = all_reduce(torch.tensor(float(x.numel() // x.shape[1]), device=x.device))
        mean = _Sum.apply(values.sum(dims)) / n  # [C]
        centred = values - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / n  # [C]
        with torch.no_grad():
            # without a momentum, the mean over all batches seen, as in torch's own
            seen = 0 if self.num_batches_tracked is None else int(self.num_batches_tracked)
            momentum = 1 / (seen + 1) if self.momentum is None else self.momentum
            for running, now in ((self.running_mean, mean), (self.running_var, variance * n / (n - 1))):
                if running is not None:
                    running.lerp_(now, momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        normalised: Tensor = centred * scale.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient, each process's loss being part of one sum.

    torch.distributed.nn.functional.all_reduce does the same, but is deprecated in favour of a private module.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return all_reduce(value.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return all_reduce(gradient.clone())
