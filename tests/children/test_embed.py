"""Faces and embeddings through OpenCV's own classes, with small networks for which a red square is a face."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from children import drawn_networks
from children.drawn_networks import picture
from PIL import Image

from ci.demo import overlay
from faces.children import networks
from faces.children.networks import WIDTH, Faces
from faces.cli import InputError
from faces.images.align import COLUMNS as LANDMARKS
from faces.images.yunet import BOX
from stages import embed
from stages import networks as stage

COMMITTED = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("networks")
    drawn_networks.write(path)
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(COMMITTED), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_face_has_its_place_in_pixels_and_an_embedding_of_length_one(folder: Path) -> None:
    face, found = Faces(folder, score=0.6, longest_side=640).largest(picture((2, 1, 0)))
    assert found == 1
    assert face is not None
    assert face.score > 0.99
    assert face.box == pytest.approx((64, 32, 32, 32), abs=0.01)
    assert dict(zip(LANDMARKS, face.landmarks, strict=True))["nose_x"] == pytest.approx(80, abs=0.01)
    assert face.embedding.shape == (WIDTH,)
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-6)


def test_of_several_faces_the_largest_is_taken_and_none_is_none(folder: Path) -> None:
    faces = Faces(folder, score=0.6, longest_side=640)
    face, found = faces.largest(picture((0, 0, 0), (4, 3, 96), (2, 0, 0)))
    assert found == 3
    assert face is not None
    assert face.box == pytest.approx((4.5 * 32 - 32, 3.5 * 32 - 32, 64, 64), abs=0.05)
    assert faces.largest(picture()) == (None, 0)
    assert faces.largest(Image.new("RGB", (1, 1))) == (None, 0)


def test_a_larger_picture_is_shrunk_and_its_face_is_where_it_was(folder: Path) -> None:
    faces = Faces(folder, score=0.6, longest_side=192)
    small, large = (faces.largest(picture((2, 1, 0), scale=scale))[0] for scale in (1, 4))
    assert small is not None
    assert large is not None
    assert large.box == pytest.approx([4 * value for value in small.box], abs=2)  # half a pixel of the small one
    assert large.embedding == pytest.approx(small.embedding, abs=0.02)


def make(root: Path, pictures: dict[str, Image.Image], unreadable: tuple[str, ...] = ()) -> None:
    rows = []
    for name, image in pictures.items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / "data" / name)
        rows.append({"path": name, "readable": 1})
    rows += [{"path": name, "readable": 0} for name in unreadable]
    pd.DataFrame(rows).to_csv(root / "images.csv", index=False)


def run(folder: Path, name: str = "out") -> tuple[np.ndarray[Any, Any], pd.DataFrame, dict[str, Any]]:
    out = Path(name)
    paths = [out / part for part in ("embeddings.npy", "landmarks.csv", "facts.json")]
    embed.main(Path("data"), Path("images.csv"), folder, *paths)
    return np.load(paths[0]), pd.read_csv(paths[1]), json.loads(paths[2].read_text(encoding="utf-8"))


PICTURES = {
    "healthy/a.png": picture((2, 1, 0)),
    "healthy/b.png": picture(),
    "down_syndrome/c.png": picture((0, 0, 0), (4, 3, 96)),
    "down_syndrome/d.png": picture((1, 1, 0), size=(320, 96)),
}


def test_the_stage_writes_a_row_for_each_readable_image_by_path(project: Path, folder: Path) -> None:
    make(project, PICTURES, unreadable=("healthy/broken.png",))
    vectors, places, facts = run(folder)
    assert places.path.tolist() == sorted(PICTURES)
    assert places.faces.tolist() == [2, 1, 1, 0]
    assert list(places.columns) == ["path", "faces", "score", *BOX, *LANDMARKS]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0])
    assert facts["no_face"] == ["healthy/b.png"]
    assert facts["several_faces"] == ["down_syndrome/c.png"]
    assert facts["classes"]["healthy"] == {
        **{"n": 2, "with_a_face": 1, "with_several": 0},
        "score": facts["classes"]["healthy"]["score"],
    }
    numbers = str(facts)
    assert not any(f"{value:.6f}" in numbers for value in vectors.ravel() if value)  # no embedding in Git


def test_neither_the_order_of_the_images_nor_the_threads_matter(
    project: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(project, PICTURES)
    vectors, places, _ = run(folder)
    make(project, dict(reversed(PICTURES.items())))
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    again, others, _ = run(folder, "again")
    assert vectors.tobytes() == again.tobytes()
    pd.testing.assert_frame_equal(places, others)


def test_without_networks_no_face_is_looked_for(project: Path, tmp_path: Path) -> None:
    params = overlay(COMMITTED, {"networks": {"source": "none"}, "data": {"source": "sample"}})
    (project / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    make(project, PICTURES)
    stage.main(tmp_path / "none")
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == ["SHA256SUMS", "facts.json"]
    vectors, places, facts = run(tmp_path / "none")
    assert not vectors.any()
    assert (places.faces == 0).all()
    assert (facts["source"], facts["looked_for"], facts["no_face"]) == ("sample", False, sorted(PICTURES))


def test_a_file_that_broke_since_the_audit_is_one_line(project: Path, folder: Path) -> None:
    make(project, PICTURES)
    (project / "data/healthy/a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png: empty file; run the audit again"):
        run(folder)
    assert not Path("out").exists()


def place(network: networks.Network, content: bytes) -> None:
    stage.DOWNLOADS.mkdir(exist_ok=True)
    (stage.DOWNLOADS / network.file).write_bytes(content)


def test_a_network_with_another_hash_is_one_line(project: Path) -> None:
    place(networks.YUNET, b"another file")
    with pytest.raises(
        InputError, match=r"yunet.*int8bq\.onnx has SHA-256 \w{64}, not 49f000ec.*delete it and run again"
    ):
        stage.main(Path("weights/faces"))
    assert not Path("weights/faces").exists()


def test_files_placed_beforehand_are_taken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    from dataclasses import replace

    for name in ("YUNET", "SFACE"):
        network = replace(getattr(networks, name), sha256=hashlib.sha256(name.encode()).hexdigest())
        monkeypatch.setattr(stage, name, network)
        place(network, name.encode())
    stage.main(Path("weights/faces"))
    for network, content in ((networks.YUNET, b"YUNET"), (networks.SFACE, b"SFACE")):
        assert (Path("weights/faces") / network.name).read_bytes() == content
    facts = json.loads(Path("weights/faces/facts.json").read_text(encoding="utf-8"))
    assert facts[networks.SFACE.name] == hashlib.sha256(b"SFACE").hexdigest()


def test_no_network_says_what_else_can_be_done(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    nowhere = replace(networks.YUNET, url="http://127.0.0.1:9/nothing/yunet.onnx")
    monkeypatch.setattr(stage, "YUNET", nowhere)
    with pytest.raises(InputError, match=r"cannot download http://127.* fetch the two files .*NETWORKS=folder"):
        stage.main(Path("weights/faces"))
