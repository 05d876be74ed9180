"""Features, Frechet distances, precision and recall, and the files that images come in."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from children import growth_of, told_by_child
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ditas_core.cli import main
from ditas_core.fidelity import (
    FeatureNetwork,
    FidelityError,
    Gaussian,
    Measured,
    Moments,
    compare_sets,
    fid_inception,
    frechet_distance,
    measure,
    open_pictures,
    precision_recall,
    read_header,
    read_rows,
    stored_gaussian,
    symmetric_sqrt,
    write_npz,
)
from ditas_core.fidelity.inception import FIDInception, resized
from ditas_core.fidelity.neighbours import squared_radii

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))


def normal(count: int, dimensions: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64)


def pixels(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3))
    return drawn.astype(np.uint8)


# the Frechet distance


@pytest.mark.numeric
@given(dimensions=st.integers(1, 8), seed=st.integers(0, 2**31 - 1))
def test_of_gaussians_with_diagonal_covariances_it_has_a_closed_form(
    dimensions: int, seed: int
) -> None:
    """|m1 - m2|^2 + |s1 - s2|^2 in the standard deviations, also where some are zero.

    Eigenvalues are known to eps |C1| |C2|, so that the root of one that is zero is known to
    eps^1/2 |C1|^1/2 |C2|^1/2; as many roots as dimensions are added, and taken twice.
    """
    m1, m2 = normal(2, dimensions, seed)
    s1, s2 = normal(2, dimensions, seed + 1).abs()
    s1[0] = 0
    first, second = (Gaussian(m, torch.diag(s**2)) for m, s in ((m1, s1), (m2, s2)))
    expected = float((m1 - m2).square().sum() + (s1 - s2).square().sum())
    rounded = 2 * dimensions * float(torch.finfo(s1.dtype).eps ** 0.5 * s1.max() * s2.max())
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-9, abs=rounded)


@pytest.mark.numeric
@given(count=st.integers(2, 30), dimensions=st.integers(1, 12), seed=st.integers(0, 2**31 - 1))
def test_it_is_the_published_one_with_a_root_of_the_product(
    count: int, dimensions: int, seed: int
) -> None:
    """tr (C1 C2)^1/2 by the eigenvalues of a matrix that is not symmetric, as the published code
    takes it; covariances of fewer vectors than dimensions are singular."""
    first = normal(count, dimensions, seed) @ normal(dimensions, dimensions, seed + 1)
    second = 1 + 2 * normal(count + 3, dimensions, seed + 2)
    a, b = (Moments.of(x).gaussian for x in (first, second))
    c1, c2 = (
        torch.from_numpy(np.cov(x.numpy().T).reshape(dimensions, -1)) for x in (first, second)
    )
    root = torch.linalg.eigvals(c1 @ c2).sqrt().real.sum()
    expected = (first.mean(0) - second.mean(0)).square().sum() + (c1 + c2).trace() - 2 * root
    scale = float((c1 + c2).trace()) + 1
    # eigenvalues that are zero come out as their own rounding, whose root is larger
    assert frechet_distance(a, b) == pytest.approx(float(expected), abs=1e-5 * scale)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-5 * scale)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5 * scale)


@pytest.mark.numeric
def test_a_root_is_a_root() -> None:
    matrix = normal(6, 4, 0)
    matrix = matrix.T @ matrix
    root = symmetric_sqrt(matrix)
    assert torch.allclose(root @ root, matrix, atol=1e-10) and torch.allclose(root, root.T)


@pytest.mark.numeric
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    away=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 2**31 - 1),
)
def test_moments_joined_over_any_cut_are_numpys(sizes: list[int], away: float, seed: int) -> None:
    x = normal(max(2, sum(sizes)), 5, seed) + away
    moments: Moments | None = None
    for part in x.split([*sizes[:-1], len(x) - sum(sizes[:-1])]):
        more = Moments.of(part)
        moments = more if moments is None else moments.joined(more)
    assert moments is not None and moments.count == len(x)
    found = moments.gaussian
    assert np.allclose(found.mean, x.numpy().mean(0), rtol=1e-12, atol=1e-12)
    assert np.allclose(found.covariance, np.cov(x.numpy().T), rtol=1e-9, atol=1e-9)


# precision and recall


def within(x: torch.Tensor, manifold: torch.Tensor, k: int) -> bool:
    """Kynkäänniemi et al. 2019, equation 1, one vector and one ball at a time."""
    for i, centre in enumerate(manifold):
        others = [math.dist(centre, y) for j, y in enumerate(manifold) if j != i]
        if math.dist(centre, x) <= sorted(others)[k - 1]:
            return True
    return False


@pytest.mark.numeric
@given(
    sizes=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    k=st.integers(1, 4),
    block=st.integers(1, 20),
    apart=st.sampled_from([0.0, 1.0, 100.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_precision_and_recall_are_the_slow_ones(
    sizes: tuple[int, int], k: int, block: int, apart: float, seed: int
) -> None:
    reference, samples = normal(sizes[0], 3, seed), normal(sizes[1], 3, seed + 1) + apart
    expected = (
        sum(within(y, reference, k) for y in samples) / len(samples),
        sum(within(x, samples, k) for x in reference) / len(reference),
    )
    found = precision_recall(reference, samples, k, block)
    assert found == pytest.approx(expected, abs=1e-12)
    if apart == 100:
        assert found == (0, 0)


@pytest.mark.numeric
def test_a_set_lies_within_itself_and_repetitions_have_no_radius() -> None:
    x = normal(9, 4, 3)
    assert precision_recall(x, x, block=4) == (1, 1)
    repeated = torch.cat([x, x[:1], x[:1], x[:1]])  # four of one: its third neighbour is itself
    radii = squared_radii(repeated, torch.zeros(4, dtype=torch.float64), 3, 5)
    assert torch.allclose(radii[[0, 9, 10, 11]], torch.zeros(4, dtype=torch.float64), atol=1e-12)
    with pytest.raises(FidelityError, match="more than 3"):
        precision_recall(x, x[:3])
    with pytest.raises(FidelityError, match="of one dimension"):
        precision_recall(x, x[:, :2])


# files


@given(shape=SHAPES, batch=st.integers(1, 10), seed=st.integers(0, 99))
def test_a_file_is_what_numpy_loads(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, int, int], batch: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    images = pixels(*shape, seed)
    cuts = (images[i : i + batch] for i in range(0, len(images), batch))
    write_npz(path, images.shape, cuts, np.arange(len(images)), {"seed": seed})
    with np.load(path) as loaded:
        assert np.array_equal(loaded["arr_0"], images) and loaded["arr_0"].dtype == np.uint8
        assert np.array_equal(loaded["arr_1"], np.arange(len(images)))
        assert loaded["arr_1"].dtype == np.int64
    assert read_header(path) == images.shape
    assert np.array_equal(np.concatenate(list(read_rows(path, batch))), images)
    np.savez_compressed(path, arr_0=images)  # and what numpy wrote is read
    found = open_pictures(path)
    assert (found.count, found.size) == (len(images), images.shape[1:3])
    assert np.array_equal(np.concatenate(list(found.batches(batch))), images.transpose(0, 3, 1, 2))


def test_batches_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    images = pixels(3, 2, 2)
    for batches in ([images[:2]], [images, images], [images.astype(np.int64)], [images[:, :1]]):
        with pytest.raises(ValueError, match="expected"):
            write_npz(tmp_path / "a.npz", images.shape, batches)


def damaged(path: Path) -> None:
    write_npz(path, (3, 4, 4, 3), [pixels(3, 4, 4)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def too_short(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (9, 4, 4, 3)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(50))


WRONG = {
    "no zip": lambda path: path.write_bytes(b"not a zip"),
    "nothing in it": lambda path: np.savez(path),
    "other names": lambda path: np.savez(path, images=pixels(2, 4, 4)),
    "floats": lambda path: np.savez(path, arr_0=np.zeros((2, 4, 4, 3))),
    "channels first": lambda path: np.savez(path, arr_0=np.zeros((2, 3, 4, 4), np.uint8)),
    "by columns": lambda path: np.savez(path, arr_0=np.asfortranarray(pixels(2, 4, 4))),
    "no image": lambda path: np.savez(path, arr_0=pixels(0, 4, 4)),
    "objects": lambda path: np.savez(path, arr_0=np.array([[[[None] * 3]]], dtype=object)),
    "shorter than it says": too_short,
    "damaged": damaged,
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_are_told_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    WRONG[kind](path)
    with pytest.raises(FidelityError, match=r"a\.npz: expected"):
        list(open_pictures(path).batches(2))


def test_a_folder_is_its_pngs_without_a_contact_sheet(tmp_path: Path) -> None:
    images = pixels(5, 6, 4)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    Image.fromarray(pixels(1, 30, 30)[0]).save(tmp_path / "contact-sheet.png")
    (tmp_path / "settings.json").write_text("{}")
    found = open_pictures(tmp_path)
    assert (found.count, found.size) == (5, (6, 4))
    batches = list(found.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert np.array_equal(np.concatenate(batches), images.transpose(0, 3, 1, 2))
    Image.fromarray(pixels(1, 3, 4)[0]).save(tmp_path / "5.png")
    with pytest.raises(FidelityError, match=r"5\.png: expected 4 x 6 pixels"):
        list(open_pictures(tmp_path).batches(2))
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(FidelityError, match=r"0\.png: expected a PNG"):
        open_pictures(tmp_path)
    with pytest.raises(FidelityError, match="found none"):
        open_pictures(tmp_path / ".." / tmp_path.name / "..")
    with pytest.raises(FidelityError, match="found neither"):
        open_pictures(tmp_path / "nothing")


def test_moments_beside_the_images_are_those_of_the_whole_data(tmp_path: Path) -> None:
    path = tmp_path / "reference.npz"
    np.savez(path, arr_0=pixels(2, 4, 4))
    assert stored_gaussian(path, 3) is None and stored_gaussian(tmp_path, 3) is None
    np.savez(path, arr_0=pixels(2, 4, 4), mu=np.arange(3.0), sigma=np.eye(3))
    found = stored_gaussian(path, 3)
    assert found is not None and torch.equal(found.covariance, torch.eye(3).double())
    with pytest.raises(FidelityError, match="mu and sigma of 2048 features"):
        stored_gaussian(path, 2048)


# networks


def random_weights(path: Path) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in FIDInception().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.rand(shape, generator=generator) / (shape[1:].numel() + 1)
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(state, path)
    return state


def test_inception_has_the_published_parts(tmp_path: Path) -> None:
    """94 convolutions, and 21,785,568 weights before a classifier of 1008."""
    state = random_weights(tmp_path / "w.pth")
    assert sum(name.endswith("conv.weight") for name in state) == 94
    learned = [value.numel() for name, value in state.items() if "running" not in name]
    assert sum(learned) - 2049 * 1008 == 21_785_568
    network = fid_inception(tmp_path / "w.pth")
    assert (network.name, network.dimensions) == ("FID Inception, other weights", 2048)
    images = torch.from_numpy(pixels(2, 20, 20).transpose(0, 3, 1, 2).copy())
    found = network.extract(images)
    assert found.shape == (2, 2048) and found.isfinite().all()
    assert torch.allclose(network.extract(images[1:]), found[1:], rtol=1e-3, atol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """torchvision's Inception has the same names, and 1000 classes."""
    path = tmp_path / "w.pth"
    state = random_weights(path)
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048)}, path)
    with pytest.raises(FidelityError, match=r"fc\.weight is of shape \(1008, 2048\)"):
        fid_inception(path)
    torch.save({name: x for name, x in state.items() if name != "Mixed_5b.branch1x1.bn.bias"}, path)
    with pytest.raises(FidelityError, match=r"branch1x1\.bn\.bias .* got None"):
        fid_inception(path)
    for wrong in ([1, 2], {"a": 3}, torch.zeros(2)):
        torch.save(wrong, path)
        with pytest.raises(FidelityError, match="expected the state dict"):
            fid_inception(path)
    path.write_bytes(b"nothing")
    with pytest.raises(FidelityError, match="a file that is none"):
        fid_inception(path)
    with pytest.raises(FidelityError, match="found no file"):
        fid_inception(tmp_path / "none.pth")


@pytest.mark.numeric
@given(height=st.integers(1, 9), width=st.integers(1, 9), size=st.integers(1, 14))
def test_images_are_resized_as_tensorflow_1_does(height: int, width: int, size: int) -> None:
    x = normal(height, width, 0).float()

    def at(row: float, column: float) -> float:
        top, left = int(row), int(column)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        down, along = row - top, column - left
        upper = (1 - along) * x[top, left] + along * x[top, right]
        lower = (1 - along) * x[bottom, left] + along * x[bottom, right]
        return float((1 - down) * upper + down * lower)

    found = resized(x[None, None], size)[0, 0]
    for i in range(size):
        for j in range(size):
            assert found[i, j] == pytest.approx(at(i * height / size, j * width / size), abs=1e-4)


# sets against each other


def corners() -> FeatureNetwork:
    """The first pixel's colours."""
    return FeatureNetwork("corners", 3, lambda images: images[:, :, 0, 0].float() / 255)


@pytest.mark.parametrize("batch", [1, 4, 50])
def test_a_set_is_measured_in_batches(tmp_path: Path, batch: int) -> None:
    images = pixels(9, 2, 2)
    np.savez(tmp_path / "a.npz", arr_0=images)
    told: list[tuple[str, int, int]] = []
    found = measure(
        open_pictures(tmp_path / "a.npz"), corners(), batch, lambda *event: told.append(event)
    )
    expected = images[:, 0, 0] / 255
    assert np.allclose(found.features, expected, atol=1e-6)
    assert np.allclose(found.gaussian.covariance, np.cov(expected.T), atol=1e-6)
    assert told[-1] == ("features of a.npz", 9, 9) and len(told) == -(-9 // batch)
    other = Measured(found.features, Gaussian(found.gaussian.mean + 2, found.gaussian.covariance))
    same = compare_sets(other, found)
    assert same.frechet_distance == pytest.approx(12, abs=1e-6)
    assert (same.precision, same.recall) == (1, 1)


def growths(folder: Path) -> str:
    """In a child: bytes to write and to read 48 MB of images, and for distances of 6000 to 6000
    features, all of which are 288 MB."""
    torch.set_num_threads(1)
    shape = (16, 1000, 1000, 3)
    path = folder / "large.npz"
    image = np.zeros((1, *shape[1:]), np.uint8)
    x = torch.randn(6000, 8, generator=torch.Generator().manual_seed(0))
    precision_recall(x[:600], x[:600], block=256)  # whatever the libraries keep

    def read() -> None:
        for rows in read_rows(path, 1):
            assert rows.shape == image.shape

    works = (
        lambda: write_npz(path, shape, (image for _ in range(shape[0]))),
        read,
        lambda: precision_recall(x, x, block=256),
    )
    return " ".join(str(growth_of(work)) for work in works)


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_memory_depends_on_batches_and_blocks(tmp_path: Path) -> None:
    written, read, distances = map(float, told_by_child(growths, tmp_path, tmp_path).split())
    assert written < 20e6 and read < 20e6 and distances < 40e6


def test_the_command_compares_several_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from ditas_core.cli import evaluate

    monkeypatch.setattr(evaluate, "efficientnet_lite0", corners)
    paths = [tmp_path / f"{name}.npz" for name in "abc"]
    for seed, path in enumerate(paths):
        np.savez(path, arr_0=pixels(8 if seed < 2 else 3, 2, 2, seed))
    words = [str(path) for path in paths[:2]]
    assert main(["evaluate", *words, "--reference", words[0], "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    first, second = report["results"]
    assert abs(first["frechet_distance"]) < 1e-6 and first["precision"] == first["recall"] == 1
    assert second["frechet_distance"] > 0 and second["notes"] == []
    assert (report["features"], report["reference_count"]) == ("corners", 8)
    assert main(["evaluate", words[0], "--reference", words[1]]) == 0
    out = capsys.readouterr().out
    assert "Frechet distance" in out and "precision" in out
    for wrong, said in (
        ([str(paths[2]), "--reference", words[0]], "more than 3 vectors"),
        ([str(tmp_path / "none"), "--reference", words[0]], "found neither"),
        ([words[0], "--reference", words[1], "--inception", str(tmp_path)], "found no file"),
    ):
        assert main(["evaluate", *wrong]) == 2
        told = capsys.readouterr().err.strip().splitlines()[-1]
        assert told.startswith("ditas evaluate: ") and said in told
