"""Join the shards of several processes over torch.distributed.

Extremes are exact under minimum and maximum, sums of squares under addition. The
tokens were drawn before anything ran, so each process holds its own rows of the
same draw: they are written into place and added as bytes to zeros.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from .recorder import StepTable


def exchange_steps(table: StepTable) -> None:
    """Join all shards' statistics in place; the same in every process afterwards.

    Needs an open process group.

    Raises:
        ConnectionError: another process ended.
    """
    try:
        for index in range(len(table)):
            for name in sorted(table.groups):  # read back from a journal they come in its order
                join_group(table, name, index)
            names = sorted(table.groups)
            rows = torch.tensor([table.rows[index][name] for name in names])
            dist.all_reduce(rows, dist.ReduceOp.SUM)
            table.rows[index] = dict(zip(names, rows.tolist(), strict=True))
    except RuntimeError as error:
        raise ConnectionError(f"exchange: another process ended ({error})") from error


def join_group(table: StepTable, name: str, index: int) -> None:
    """One group's statistics of one step."""
    world, rank = dist.get_world_size(), dist.get_rank()
    low, high, squares, tokens = (tensor[index] for tensor in table.groups[name])
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    dist.all_reduce(squares, dist.ReduceOp.SUM)
    mine = table.counts[index][name]
    counts = torch.zeros(world, dtype=torch.int64)
    counts[rank] = mine
    dist.all_reduce(counts, dist.ReduceOp.SUM)
    before = int(counts[:rank].sum())
    own = tokens[:mine].clone()
    tokens.zero_()
    tokens[before : before + mine] = own
    dist.all_reduce(tokens.view(torch.uint8), dist.ReduceOp.SUM)
    table.counts[index][name] = int(counts.sum())
