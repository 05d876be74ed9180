"""A static site: what is written, what its graphs compute, what is refused; and its JavaScript."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import build_random_checkpoint
from diffusers import DDIMScheduler
from tiny_pixart import save_tiny_pixart
from torch.nn import functional

from ditas_core import site
from ditas_core.calibration import Calibration
from ditas_core.checkpoints import Checkpoint, CheckpointError, load_checkpoint
from ditas_core.cli import main
from ditas_core.evaluation import sqnr_db
from ditas_core.models import class_conditions
from ditas_core.onnx_runtime import ABSMAX, onnx_model, trace, traced, traced_decoder
from ditas_core.sampling import generators, initial_noise
from ditas_core.site import RuntimeMissing, Settings, fetch_runtime, make_site, runtime
from ditas_core.site.offers import graph_of, loud_group, offers_of, transformer_of
from ditas_core.site.tables import look_of, patches, schedule_tables
from ditas_core.specs import BitWidths, SpecError

NODE = shutil.which("node")
STATIC = Path(site.__file__).parent / "static"
SMALL = Settings(("W4A8", "W8A8"), grid=(0.5,), steps=10)
KEYS = ["full", "W4A8-plain", "W4A8-ditas", "W8A8-plain", "W8A8-ditas"]


@pytest.fixture(scope="module")
def small(stock: Path) -> Checkpoint:
    """The random checkpoint as it is loaded."""
    return load_checkpoint(str(stock))


@pytest.fixture(autouse=True, scope="module")
def own_graphs() -> Iterator[None]:
    """Other files' tests count what is traced in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "KEPT", {})
        yield


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``fetch_runtime`` leaves one; only a browser looks into its files."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in runtime.FILES:
        (folder / name).write_bytes(name.encode() * 100)
    return folder


@pytest.fixture(scope="module")
def made(
    small: Checkpoint,
    random_calibration: Calibration,
    files: Path,
    graphs: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("made") / "site"
    told: list[tuple[str, int, int]] = []
    report = make_site(
        folder, small, random_calibration, files, SMALL, graphs,
        story="<p>told</p>", progress=lambda *event: told.append(event),
    )  # fmt: skip
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert told[-1][1] == told[-1][2]
    assert list(report.models) == KEYS and min(report.sqnr_db.values()) > 10
    assert report.sqnr_db["full"] > 60
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def graph_in(folder: Path, file: str) -> bytes:
    return gzip.decompress((folder / file).read_bytes())


def test_the_folder_is_complete_and_nothing_else(made: Path) -> None:
    found = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    manifest = manifest_of(made)
    models = {entry["file"] for entry in (*manifest["models"], manifest["decoder"])}
    written = {"manifest.json", "worker-files.js", "story.html", "README.md"}
    page = {path.name for path in STATIC.iterdir()}
    of_runtime = {f"runtime/{name}{'.gz' * (name == runtime.BINARY)}" for name in runtime.FILES}
    assert found == models | written | page | of_runtime
    assert [entry["key"] for entry in manifest["models"]] == KEYS
    for entry in (*manifest["models"], manifest["decoder"]):
        content = graph_in(made, entry["file"])
        assert entry["bytes"] == (made / entry["file"]).stat().st_size
        assert entry["unpacked"] == len(content)
        assert hashlib.sha256(content).hexdigest().startswith(entry["file"].split(".")[-3])
    kept = json.loads((made / "worker-files.js").read_text()[len("self.SITE = ") : -2])
    assert set(kept["models"]) == models
    assert set(kept["files"]) == {"./"} | found - models - {
        "README.md", "worker-files.js", "story.html",
    }  # fmt: skip


def test_what_a_site_says_of_its_model(made: Path, small: Checkpoint) -> None:
    manifest = manifest_of(made)
    assert manifest["classes"] == list(small.class_names)
    assert manifest["null"] == 1000 and manifest["latent"] == [4, 8, 8] and manifest["pixels"] == 16
    assert manifest["fingerprint"] == small.fingerprint
    assert manifest["open"] == {
        "class": 0, "bits": "W4A8", "guidance": 2.5, "steps": 10, "seed": 7,
    }  # fmt: skip
    front = (made / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "sdk: static" in front and "app_file: index.html" in front and 'license: "mit"' in front
    for header in ("cross-origin-embedder-policy: require-corp", "opener-policy: same-origin"):
        assert header in front
    short = re.search("short_description: (.*)", front)
    assert short is not None and len(short[1]) <= 60


def test_every_model_of_a_site_computes_what_torch_does(
    made: Path, small: Checkpoint, random_calibration: Calibration
) -> None:
    manifest = manifest_of(made)
    offers = list(offers_of(small, random_calibration, SMALL.widths, "integer", (0.5,)))
    group = loud_group(small, random_calibration, offers)
    assert manifest["watched"]["title"] == group.title
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = class_conditions(small.transformer, torch.tensor([2]))["class_labels"]
    feeds = {
        "hidden_states": latents.numpy(),
        "timestep": torch.tensor([400.0, 400.0]).numpy(),
        "class_labels": labels.numpy(),
    }
    for offer, entry in zip(offers, manifest["models"], strict=True):
        transformer = transformer_of(small, random_calibration, offer)
        session = onnxruntime.InferenceSession(graph_in(made, entry["file"]))
        sample, absmax = session.run(["sample", ABSMAX], feeds)
        expected = transformer(
            latents, timestep=torch.tensor([400, 400]), class_labels=labels, return_dict=False
        )[0]
        least = 60 if offer.recipe is None else 20
        assert float(sqnr_db(expected, torch.from_numpy(sample)).min()) > least, offer.key
        assert absmax.shape == (entry["channels"],)


@pytest.mark.parametrize("kind", ["qkv", "proj", "fc1", "fc2"])
@pytest.mark.parametrize("key", ["full", "W8A8-plain", "W8A8-ditas"])
def test_channel_maxima_are_those_of_what_a_layer_rounds(
    small: Checkpoint,
    random_calibration: Calibration,
    graphs: Path,
    kind: str,
    key: str,
) -> None:
    """fc2 is divided on the fly, the others before."""
    offers = offers_of(small, random_calibration, (BitWidths(8, 8),), "integer", (0.5,))
    offer = next(each for each in offers if each.key == key)
    transformer = transformer_of(small, random_calibration, offer)
    group = next(each for each in small.groups if each.name == f"1.{kind}")
    _, model = graph_of(traced(small, graphs), transformer, group)
    layer = transformer.get_submodule(group.layers[0])
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([1, 1000])
    transformer(latents, timestep=torch.tensor([20, 20]), class_labels=labels)
    hook.remove()
    feeds = {
        "hidden_states": latents.numpy(),
        "timestep": torch.tensor([20.0, 20.0]).numpy(),
        "class_labels": labels.numpy(),
    }
    exact = onnxruntime.SessionOptions()  # without it sums of two products saturate without VNNI
    exact.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), exact)
    found = torch.from_numpy(session.run([ABSMAX], feeds)[0])
    expected = seen[0].abs().amax((0, 1))
    smoothing = getattr(layer, "smoothing", None)
    if smoothing is not None:
        expected = expected / smoothing
    assert (smoothing is not None) == (kind == "fc2" and key == "W8A8-ditas")
    near = 1e-4 if key == "full" else 0.05  # codes before it that lie at a tie
    torch.testing.assert_close(found, expected, rtol=near, atol=near)


@pytest.mark.thorough  # traces the demo's decoder
def test_a_decoder_in_bytes_is_a_quarter_and_close(
    demo_checkpoint: Checkpoint, graphs: Path
) -> None:
    graph = traced_decoder(demo_checkpoint, graphs)
    full, small = (onnx_model(graph, demo_checkpoint.vae, eighth=e) for e in (False, True))
    assert small.ByteSize() < 0.27 * full.ByteSize()
    latents = torch.randn(2, *demo_checkpoint.latent_shape, generator=torch.Generator())
    images = [
        torch.from_numpy(
            onnxruntime.InferenceSession(model.SerializeToString()).run(
                None, {"latents": latents.numpy()}
            )[0]
        )
        for model in (full, small)
    ]
    assert float(sqnr_db(*images).min()) > 35
    assert not torch.equal(*images)


SCHEDULES = [
    {},
    {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    {"timestep_spacing": "linspace", "set_alpha_to_one": False},
    {"prediction_type": "sample", "clip_sample": True, "clip_sample_range": 1.5},
    {"steps_offset": 1, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
     "timestep_spacing": "trailing"},
]  # fmt: skip


def walked(config: dict[str, Any], predicted: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Ten steps of diffusers' own scheduler with this prediction at every one."""
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, **{"clip_sample": False, **config})
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps:
        x = scheduler.step(predicted, int(t), x).prev_sample
    return x


def with_schedule(config: dict[str, Any]) -> Checkpoint:
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, **{"clip_sample": False, **config})
    return replace(build_random_checkpoint(), scheduler=dict(scheduler.config))


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("config", SCHEDULES)
def test_the_page_walks_a_schedule_as_diffusers_does(config: dict[str, Any]) -> None:
    tables = schedule_tables(with_schedule(config))
    generator = torch.Generator().manual_seed(2)
    x, predicted = torch.randn(2, 1, 4, 4, 4, generator=generator)
    code = f"""
    import {{ denoise }} from {str((STATIC / "sampler.js").as_uri())!r};
    const predicted = {predicted.flatten().tolist()}, schedule = {json.dumps(tables)};
    const run = async () => ({{ sample: [...predicted, ...predicted], absmax: [] }});
    let last;
    for await (const each of denoise(run, schedule, 10, 3, Float32Array.from({x.flatten().tolist()}))) last = each;
    console.log(JSON.stringify([...last.latents]));
    """  # noqa: E501
    found = torch.tensor(node(code)).reshape(x.shape)
    torch.testing.assert_close(found, walked(config, predicted, x), rtol=2e-4, atol=2e-4)


def node(code: str) -> Any:
    """What a module prints as JSON."""
    assert NODE is not None
    run = subprocess.run(
        [NODE, "--input-type=module", "--eval", code], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 2, 2), (4, 5, 5), (3, 7, 3)])
def test_a_seed_is_the_same_noise_as_in_python(shape: tuple[int, int, int]) -> None:
    count = shape[0] * shape[1] * shape[2]
    for seed in (0, 7, 2**31 - 1):
        code = f"""
        import {{ randn }} from {str((STATIC / "noise.js").as_uri())!r};
        console.log(JSON.stringify([...randn({seed}, {count})]));
        """
        expected = initial_noise(shape, generators(seed, 1)).flatten()
        torch.testing.assert_close(torch.tensor(node(code)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_guidance_takes_the_noise_of_a_model_that_learned_its_variance() -> None:
    code = f"""
    import {{ guided, sqnr, toPixels }} from {str((STATIC / "sampler.js").as_uri())!r};
    console.log(JSON.stringify([[...guided([1, 2, 9, 9, 3, 5, 9, 9], 2, 1.5)],
      sqnr([3, 4], [3, 4.5]), [...toPixels([0, 1, 0.5, 0.25, 1.5, -1])]]));
    """
    eps, closeness, pixels = node(code)
    assert eps == [3 + 1.5 * (1 - 3), 5 + 1.5 * (2 - 5)]
    assert closeness == pytest.approx(20)
    assert pixels == [0, 128, 255, 255, 255, 64, 0, 255]


def test_the_quick_look_finds_a_linear_decoder() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = 0.05 * torch.randn(3 * 4, 2, 3, 3, generator=generator)
    latents = torch.randn(60, 2, 6, 6, generator=generator)
    images = functional.pixel_shuffle(functional.conv2d(latents, kernel, padding=1), 2) + 0.5
    look = look_of(latents, images)
    assert look["block"] == 2 and len(look["weights"]) == 2 * 9 + 1
    found = patches(latents) @ torch.tensor(look["weights"])  # (N h w, f f 3)
    found = found.reshape(60, 36, 4, 3).permute(0, 3, 2, 1).reshape(60, 12, 36)
    found = functional.fold(found, (12, 12), 2, stride=2)
    assert float((found - images).abs().max()) < 0.02


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_page_looks_at_latents_as_the_fit_does() -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 2, 5, 4, generator=generator)
    images = torch.rand(2, 3, 15, 12, generator=generator)
    look = look_of(latents, images)
    code = f"""
    import {{ quickLook }} from {str((STATIC / "sampler.js").as_uri())!r};
    const pixels = quickLook({latents[0].flatten().tolist()}, [2, 5, 4], {json.dumps(look)});
    console.log(JSON.stringify([...pixels]));
    """
    found = torch.tensor(node(code)).reshape(15, 12, 4)[..., :3].permute(2, 0, 1)
    rows = patches(latents[:1]) @ torch.tensor(look["weights"])
    rows = rows.reshape(1, 20, 9, 3).permute(0, 3, 2, 1).reshape(1, 27, 20)
    expected = functional.fold(rows, (15, 12), 3, stride=3)[0].clamp(0, 1) * 255
    assert float((found - expected).abs().max()) < 0.6


def test_nothing_is_asked_of_another_host() -> None:
    """But the namespace of no address; the policy forbids what would slip through."""
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|//cdn|@import|url\(", text), path.name
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page and "unsafe-inline" not in page


def test_it_is_whole_or_absent(
    small: Checkpoint,
    random_calibration: Calibration,
    files: Path,
    graphs: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="new or empty folder"):
        make_site(tmp_path / "taken", small, random_calibration, files, SMALL, graphs)
    half = tmp_path / "half"
    shutil.copytree(files, half)
    (half / runtime.GLUE).unlink()
    with pytest.raises(FileNotFoundError):
        make_site(tmp_path / "site", small, random_calibration, half, SMALL, graphs)
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "half"}


def test_what_no_site_can_be_made_of_is_refused_by_name(
    small: Checkpoint, random_calibration: Calibration, files: Path, tmp_path: Path
) -> None:
    captioned = load_checkpoint(str(save_tiny_pixart(tmp_path / "pixart", False)))
    out = tmp_path / "site"
    for checkpoint, reason in (
        (captioned, "a model of classes"),
        (with_schedule({"thresholding": True}), "without thresholding"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            make_site(out, checkpoint, random_calibration, files, SMALL)
    with pytest.raises(CheckpointError, match="class: expected a name"):
        make_site(out, small, random_calibration, files, replace(SMALL, opened="yeti"))
    with pytest.raises(CheckpointError, match="steps: expected one of 10, 20"):
        make_site(out, small, random_calibration, files, replace(SMALL, steps=15))
    for options, reason in (
        ({"bits": ()}, "at least one width"),
        ({"bits": ("W9A8",)}, "weight bits"),
        ({"convention": "paper"}, "models that run in integers"),
        ({"guidance_scale": 99.0}, "guidance_scale"),
    ):
        with pytest.raises(SpecError, match=reason):
            Settings(**options)
    assert not out.exists()


def package(content: dict[str, bytes]) -> bytes:
    """An archive as the registry has them."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return whole.getvalue()


@pytest.fixture()
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A registry on loopback that has what is put into the dictionary."""
    shelf: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = shelf.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in runtime.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{server.server_port}/npm/")
    yield shelf
    server.shutdown()
    server.server_close()


def test_the_runtime_comes_from_the_registry_that_is_named_and_is_checked(
    registry: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/npm/{runtime.PACKAGE}/-/{runtime.PACKAGE}-{runtime.VERSION}.tgz"
    with pytest.raises(RuntimeMissing, match="from the npm registry"):
        fetch_runtime(tmp_path)
    archive = package({name: name.encode() for name in runtime.FILES})
    registry[address] = archive
    with pytest.raises(RuntimeMissing, match="expected the archive of version"):
        fetch_runtime(tmp_path)
    assert list(tmp_path.iterdir()) == []
    digest = hashlib.sha512(archive).digest()
    monkeypatch.setattr(runtime, "INTEGRITY", "sha512-" + base64.b64encode(digest).decode())
    folder = fetch_runtime(tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: name.encode() for name in runtime.FILES
    }
    registry.clear()
    assert fetch_runtime(tmp_path) == folder, "what is there is not asked for again"
    kept = tmp_path / "package.tgz"
    kept.write_bytes(archive)
    assert fetch_runtime(tmp_path / "other", kept).is_dir(), "without a network"
    monkeypatch.setenv("npm_config_registry", "file:///etc")
    with pytest.raises(RuntimeMissing, match="the address of a registry"):
        fetch_runtime(tmp_path / "third")


def test_the_command_says_what_is_wrong(stock: Path, tmp_path: Path, capsys: Any) -> None:
    wrong = tmp_path / "package.tgz"
    wrong.write_bytes(b"no archive")
    words = ["export", str(stock), "--to", "web", "--out", str(tmp_path / "site")]
    assert main([*words, "--runtime", str(wrong)]) == 2
    assert "expected the archive of version" in capsys.readouterr().err
    assert main([*words, "--bits", "W4"]) == 2
    assert "expected something like W4A8" in capsys.readouterr().err
    assert main([*words, "--modulation", "w8"]) == 2
    assert "modulation: expected none with --to web" in capsys.readouterr().err
    assert main(["export", str(stock), "--to", "onnx", "--out", "x", "--bits", "W4A8"]) == 2
    assert "--bits: expected only with --to web" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["package.tgz"]
