"""What the pickle of a ``torch.save`` archive asks for, checked before it is read.

``weights_only`` builds nothing but tensors in plain containers. That leaves what a
container costs: a tuple is hashed with all it holds when it is a key, so that one
nested a hundred thousand times, or doubled thirty times by reference, ends the process
or keeps it busy for hours. So the instructions are those that ``torch.save`` writes,
and a walk over them bounds how much each tuple holds.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import Any

from ...models import CheckpointError
from .headers import REMEDY, OpenFile

MAX_STEPS = 200_000  # instructions; each may make an object
MAX_TUPLE = 1_000  # things in a tuple, those in its tuples with them
STORAGES = ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
NAMED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("torch", "device"),
    # the original DiT's training script saves its options beside the weights
    ("argparse", "Namespace"),
    *(("torch", f"{kind}Storage") for kind in STORAGES),
    *(("torch", kind) for kind in ("float32", "float16", "bfloat16", "float64", "int64")),
}
CONSTANTS = "NONE NEWFALSE NEWTRUE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING"
CONTAINERS = "EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET MARK TUPLE TUPLE1 TUPLE2 TUPLE3"
FILLING = "APPEND APPENDS SETITEM SETITEMS BUILD"
MAKING = "GLOBAL NEWOBJ REDUCE BINPERSID"
REMEMBERING = "BINGET LONG_BINGET BINPUT LONG_BINPUT"
WRITTEN = {
    *f"PROTO STOP {CONSTANTS} {CONTAINERS} {FILLING} {MAKING} {REMEMBERING}".split(),
}
"""The instructions of ``torch.save``, which ``weights_only`` knows too."""
HOW_TO = (
    "ask whoever made the file for its weights alone, as safetensors or as what "
    "torch.save(model.state_dict(), FILE) writes"
)


def refusal(file: OpenFile, what: str) -> CheckpointError:
    return CheckpointError(f"{file.name}: expected {what}; nothing in it was run")


def check_pickle(file: OpenFile, raw: bytes) -> None:
    """Raise a CheckpointError that names whatever the pickle asks for besides tensors."""
    walk = Walk()
    try:
        for step, (code, argument, position) in enumerate(pickletools.genops(raw)):
            if step > MAX_STEPS:
                raise refusal(file, f"a pickle of at most {MAX_STEPS} instructions, got more")
            if code.name == "GLOBAL":
                module, _, what = str(argument).partition(" ")
                if (module, what) not in NAMED:
                    raise refusal(
                        file,
                        f"a state dict of tensors, got one that asks for {module}.{what}; {HOW_TO}",
                    )
            if code.name not in WRITTEN:
                raise refusal(
                    file,
                    "tensors in plain containers as torch.save writes them, got the pickle "
                    f"instruction {code.name}; {HOW_TO}",
                )
            if code.name == "LONG1" and abs(int(argument or 0)) >= 2**63:
                raise refusal(file, "whole numbers of at most 64 bits, got a larger one")
            if walk.go(code, argument) > MAX_TUPLE:
                raise refusal(file, f"at most {MAX_TUPLE} things in a tuple, got more; {HOW_TO}")
            if code.name == "STOP" and position != len(raw) - 1:
                raise refusal(file, "one pickle, got more behind it")
    except CheckpointError:
        raise
    except Exception as error:  # pickletools raises many types
        raise refusal(
            file, f"a whole pickle, got a damaged one ({type(error).__name__}): {REMEDY}"
        ) from None


class Walk:
    """The stack of the pickle machine, with the size of every object in its place.

    The size is 1, but a tuple counts what it holds as often as it holds it, and what is
    made from a tuple counts the tuple. Lists and dicts cannot be keys: they end the
    counting.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.below: list[list[int]] = []  # the stacks below each mark
        self.memo: dict[int, int] = {}

    def go(self, code: pickletools.OpcodeInfo, argument: Any) -> int:
        """One instruction; the size of what lies on top afterwards.

        Raises:
            IndexError, KeyError: the pickle takes what is not there.
        """
        name = code.name
        if name == "MARK":
            self.below.append(self.stack)
            self.stack = []
            return 0
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        else:
            taken = self.take(code.stack_before)
            if code.stack_after:
                counts = name.startswith("TUPLE") or name in ("REDUCE", "NEWOBJ")
                self.stack.append(1 + sum(taken) if counts else 1)
        return self.stack[-1] if self.stack else 0

    def take(self, before: Sequence[pickletools.StackObject]) -> list[int]:
        """What an instruction takes, all down to the mark where it says so."""
        taken: list[int] = []
        single = len(before)
        if pickletools.markobject in before:
            taken, self.stack = self.stack, self.below.pop()
            single = before.index(pickletools.markobject)
        for _ in range(single):
            taken.append(self.stack.pop())
        return taken
