"""Files of embedded captions: what is written is read, everything else is refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_vae
from safetensors.torch import load_file, save_file
from tiny_pixart import LENGTHS, NAMES, SCHEDULE, TOKENS, tiny_captions, tiny_pixart

from ditas_core.checkpoints import Captions, CheckpointError
from ditas_core.checkpoints.captions import FORMAT
from ditas_core.models.pixart import TextConditions, repeated

pytestmark = pytest.mark.numeric

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tiny_captions().save(tmp_path)


def rewrite(file: Path, change: Callable[[Tensors, dict[str, str]], object]) -> None:
    """Write the file again after ``change`` had its tensors and metadata."""
    tensors = load_file(file)
    metadata = {"format": FORMAT, "names": json.dumps(NAMES)}
    change(tensors, metadata)
    save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata=metadata)


def test_what_is_written_is_read(file: Path) -> None:
    written, read = tiny_captions(), Captions.load(file)
    assert read.names == NAMES and (read.tokens, read.width) == (TOKENS, 20)
    assert read.sha256 == written.sha256 == Captions.load(file.parent).sha256
    for part in ("embeds", "mask", "null_embeds", "null_mask"):
        assert torch.equal(getattr(read, part), getattr(written, part))
    assert [p.name for p in file.parent.iterdir()] == ["captions.safetensors"]
    half = replace(written, embeds=written.embeds.half())
    assert Captions.load(half.save(file.parent)).embeds.dtype == torch.float16


@pytest.mark.parametrize("part", ["names", "embeds", "mask", "null_embeds", "null_mask"])
def test_the_hash_sees_every_part(part: str) -> None:
    captions = tiny_captions()
    value: Any = getattr(captions, part)
    if part == "names":
        value = (*value[:-1], "another")
    else:
        value = value.clone()
        value.view(-1)[-1] = ~value.view(-1)[-1] if value.dtype == torch.bool else 7.0
    assert replace(captions, **{part: value}).sha256 != captions.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("mask"), "embeds, mask"),
        (lambda t, m: t.update(more=torch.zeros(1)), "with embeds"),
        (lambda t, m: m.pop("format"), "got another"),
        (lambda t, m: m.update(format="x"), "got x"),
        (lambda t, m: m.pop("names"), "JSON list"),
        (lambda t, m: m.update(names="[" * 100_000), "JSON list"),
        (lambda t, m: m.update(names='["a"]'), r"embeds of \(1,"),
        (lambda t, m: m.update(names='["a", "a", "b"]'), "once"),
        (lambda t, m: m.update(names='["a", " ", "b"]'), "outer spaces"),
        (lambda t, m: m.update(names='["a", 3, "b"]'), "names"),
        (lambda t, m: m.update(names='["a", "c\\u0000", "b"]'), "printable"),
        (lambda t, m: m.update(names=json.dumps(["a", "c" * 301, "b"])), "300"),
        (lambda t, m: t.update(embeds=t["embeds"][0]), "embeds of"),
        (lambda t, m: t.update(mask=t["mask"][:, :5]), "mask of"),
        (lambda t, m: t.update(null_embeds=t["null_embeds"][:, :5]), "null_embeds of"),
        (lambda t, m: t.update(null_mask=t["null_mask"][:5]), "null_mask of"),
        (lambda t, m: t.update(embeds=t["embeds"] * float("nan")), "finite"),
        (lambda t, m: t.update(embeds=t["embeds"].long()), "floating-point"),
        (lambda t, m: t.update(mask=t["mask"] * 3), "zeros and ones"),
        (lambda t, m: t["mask"][1].zero_(), "at least one token"),
        (lambda t, m: t["null_mask"].zero_(), "at least one token"),
    ],
)
def test_other_files_are_refused_with_the_reason(
    file: Path, change: Callable[[Tensors, dict[str, str]], object], message: str
) -> None:
    rewrite(file, change)
    with pytest.raises(CheckpointError, match=message):
        Captions.load(file)


def test_damaged_and_missing_files_are_refused(file: Path) -> None:
    content = file.read_bytes()
    for damage in (b"", b"garbage", content[:-1], content + b"x"):
        file.write_bytes(damage)
        with pytest.raises(CheckpointError):
            Captions.load(file)
    with pytest.raises(CheckpointError, match=r"found none.*encode|of_pipeline"):
        Captions.load(file.with_name("none"))


def test_hidden_positions_hold_the_captions_own_tokens_again() -> None:
    embeds = torch.arange(6.0)[:, None]
    mask = torch.tensor([True, False, True, False, False, False])
    assert repeated(embeds, mask).flatten().tolist() == [0, 0, 2, 2, 0, 2]
    assert embeds.flatten().tolist() == [0, 1, 2, 3, 4, 5], "the source is left as it was"
    whole = torch.ones(6, dtype=torch.bool)
    assert torch.equal(repeated(embeds, whole), embeds)


@pytest.mark.parametrize("pixels", [None, 256])
def test_conditions_are_those_of_both_halves(pixels: int | None) -> None:
    captions = tiny_captions()
    found = TextConditions(captions, pixels)(torch.tensor([2, 0]))
    assert found["encoder_hidden_states"].shape == (4, TOKENS, 20)
    assert found["encoder_attention_mask"].sum(1).tolist() == [LENGTHS[2], LENGTHS[0], 1, 1]
    first = found["encoder_hidden_states"][0]
    assert torch.equal(first[: LENGTHS[2]], captions.embeds[2, : LENGTHS[2]])
    assert torch.equal(
        found["encoder_hidden_states"][3], captions.null_embeds[:1].expand(TOKENS, -1)
    )
    if pixels is None:
        assert "added_cond_kwargs" not in found
    else:
        size = found["added_cond_kwargs"]
        assert size["resolution"].tolist() == [[256.0, 256.0]] * 4
        assert size["aspect_ratio"].tolist() == [[1.0]] * 4


@pytest.mark.slow
@pytest.mark.parametrize("told", [False, True])
def test_captions_of_a_whole_pipeline(told: bool, tmp_path: Path) -> None:
    """A real (tiny, random) T5 encoder, where the transformers library is there."""
    transformers = pytest.importorskip("transformers")
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtSigmaPipeline
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "red", "fox", "owl", "blurred"]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    config = transformers.T5Config(
        vocab_size=len(words), d_model=20, d_kv=5, d_ff=32, num_layers=1, num_heads=4
    )
    cls = PixArtAlphaPipeline if told else PixArtSigmaPipeline
    pipeline = cls(
        tokenizer=transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        text_encoder=transformers.T5EncoderModel(config).eval(),
        vae=tiny_vae(),
        transformer=tiny_pixart(told),
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE),
    )
    captions = Captions.of_pipeline(pipeline, ["a red fox", "an owl"], negative="blurred")
    assert captions.names == ("a red fox", "an owl") and captions.width == 20
    assert captions.tokens == (120 if told else 300)
    assert captions.mask.sum(1).tolist() == [4, 3] and int(captions.null_mask.sum()) == 2
    assert Captions.load(captions.save(tmp_path)).sha256 == captions.sha256
    with pytest.raises(CheckpointError, match="at least one prompt"):
        Captions.of_pipeline(pipeline, [])
