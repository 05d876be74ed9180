"""Contenders from outside: torchao, sdnq and quanto, where installed, over a contest's own noise.

python -m ditas_core bench peers CHECKPOINT --bits W4A8 --samples 64 --out peers

Each library rounds a copy of the transformer, the layers of the smoothing groups alone, as it
comes. What it draws goes into a file that ``ditas contest --outside FILE`` puts into its table; run
it in an environment that has the library, with the contest's checkpoint, samples, steps and seed.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditas_core.checkpoints import Checkpoint, load_checkpoint
from ditas_core.cli.compare import injected
from ditas_core.cli.parsing import number
from ditas_core.cli.progress import trajectory
from ditas_core.contest import ContestSpec, Peer, drawn_as, write_outside
from ditas_core.sampling import spread_labels
from ditas_core.specs import BitWidths, SamplingSpec

from .contestants import grouped_paths
from .machine import describe
from .stock import QUANTIZERS, Quantizer, version_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint")
    parser.add_argument(
        "--bits", default="W4A8", help="of the contest; weights decide (%(default)s)"
    )
    parser.add_argument("--samples", type=number(int, 1, 4096), default=64, help="(%(default)s)")
    parser.add_argument("--steps", type=number(int, 1, 1000), default=20, help="(%(default)s)")
    parser.add_argument("--guidance", type=number(float, 1, 20), default=None)
    parser.add_argument("--seed", type=number(int, 0, 2**31 - 1), default=0, help="(%(default)s)")
    parser.add_argument("--inject", type=number(float, 1, 1e4), default=1.0, metavar="K")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")


def spec_of(args: argparse.Namespace) -> ContestSpec:
    guidance = SamplingSpec.guidance_scale if args.guidance is None else args.guidance
    sampling = SamplingSpec(args.steps, guidance)
    return ContestSpec(
        BitWidths.parse(args.bits), None, samples=args.samples, sampling=sampling, seed=args.seed
    )


def chosen(bits: BitWidths) -> list[Quantizer]:
    """Those that round weights to as many bits."""
    return [q for q in QUANTIZERS if BitWidths.parse(q.bits).weight_bits == bits.weight_bits]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """A file for every quantizer that is installed."""
    spec = spec_of(args)
    checkpoint = load_checkpoint(args.checkpoint)
    if args.inject > 1:
        checkpoint = injected(checkpoint, args.inject)
    labels = spread_labels(spec.samples, len(checkpoint.class_names))
    rows, absent = [], []
    for each in chosen(spec.bits):
        version = version_of(each.package)
        if version is None:
            absent.append(each.name)
            continue
        network = copy.deepcopy(checkpoint.transformer)
        begun = time.perf_counter()
        with torch.no_grad():
            each.change(network, checkpoint)
            convert_s = time.perf_counter() - begun
            result = trajectory(each.name, checkpoint, network, labels, spec.sampling, spec.seed)
        bits = BitWidths.parse(each.bits)
        peer = Peer(
            label=each.name,
            outside=f"{each.package} {version}",
            weights=f"int{bits.weight_bits}",
            effective_bits=stored_bits_per_weight(checkpoint, network, bits.weight_bits),
            convert_s=convert_s,
            seconds_per_sample=result.seconds / spec.samples,
            fingerprint=checkpoint.fingerprint,
            drawn=drawn_as(spec),
        )
        path = args.out / f"{file_name(each.name)}.safetensors"
        write_outside(path, peer, result.final)
        rows.append(
            {
                "name": each.name,
                "file": str(path),
                "effective_bits": round(peer.effective_bits, 3),
                "convert_s": round(convert_s, 2),
            }
        )
    return {"rows": rows, "absent": absent, "bits": str(spec.bits), "machine": describe()}


def file_name(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


def inner(tensor: Tensor) -> list[Tensor]:
    """What a library's own kind of tensor is stored as; a plain one is itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [tensor]
    return [part for name in flatten()[0] for part in inner(getattr(tensor, name))]


def stored_bits_per_weight(checkpoint: Checkpoint, network: nn.Module, bits: int) -> float:
    """Codes at their width and everything beside them as it is stored, biases not counted.

    Of a layer's tensors the largest holds the codes, which libraries without a kernel for few bits
    keep a byte each.
    """
    total = weights = 0
    for path in sorted(grouped_paths(checkpoint.transformer)):
        numbers = checkpoint.transformer.get_submodule(path).weight.numel()
        found: list[Tensor] = []
        for name, tensor in network.get_submodule(path).state_dict(keep_vars=True).items():
            if name.rpartition(".")[2] != "bias":
                found += inner(tensor)
        sizes = sorted(8 * tensor.numel() * tensor.element_size() for tensor in found)
        total += bits * numbers + sum(sizes[:-1])
        weights += numbers
    return total / weights


def lines(report: dict[str, Any]) -> list[str]:
    """A Markdown table, and who is not installed."""
    made = ["| peer | bits per weight | file |", "|---|---|---|"]
    made += [f"| {r['name']} | {r['effective_bits']:.2f} | {r['file']} |" for r in report["rows"]]
    if report["absent"]:
        made.append(f"not installed: {', '.join(report['absent'])}")
    return made
