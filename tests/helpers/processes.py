"""Work done by several ranks at once, each in a process of its own."""

from datetime import timedelta

import torch
import torch.multiprocessing as mp
from torch import distributed as dist


def on_ranks(work, port, *args, world=2, timeout=30):
    """What `work(rank, *args)` gave on each rank, or the error it raised; ranks that wait for others fail after `timeout`."""
    context = mp.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_rank, args=(rank, world, port, timeout, queue, work, args)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=3 * timeout) for _ in processes)
    for process in processes:
        process.join(timeout)
        assert process.exitcode == 0
    return [found[rank] for rank in range(world)]


def _rank(rank, world, port, timeout, queue, work, args):
    torch.set_num_threads(1)
    wait = timedelta(seconds=timeout)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world, timeout=wait)
    try:
        queue.put((rank, work(rank, *args)))
    except BaseException as error:
        queue.put((rank, error))
    dist.destroy_process_group()


def trained_on(rank, world=2):
    """The next exchange of training, which gets another rank's tensor if ranks have lost step."""
    gradient = torch.full((1000,), float(rank + 1))
    dist.all_reduce(gradient)
    return gradient.unique().tolist() == [world * (world + 1) / 2]
