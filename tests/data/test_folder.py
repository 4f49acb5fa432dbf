"""A data set of pictures in folders: sizes, colours, parts, names, and files that are no pictures."""

import numpy as np
import pytest
from PIL import Image

import kip
from kip import data, sets
from kip.data.folder import read
from kip.data.image_folder import Look
from kip.errors import DataError

NAMES = ("cat", "dog", "owl")


def write(path, *, size=(12, 10), mode="RGB", value=0, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3))
    Image.fromarray((noise + value).astype(np.uint8)).convert(mode).save(path)


def fill(folder, counts, **options):
    """Write so many pictures of each class, whose brightness tells the classes apart."""
    for number, (name, count) in enumerate(zip(NAMES, counts)):
        for index in range(count):
            write(folder / name / f"{index}.png", value=60 * number, seed=100 * number + index, **options)
    return folder


def load(folder, **options):
    return data.load(data.Data(folder.name, validation=2, **options), folder.parent)


def test_train_and_test_folders_give_the_parts_and_their_names(tmp_path):
    fill(tmp_path / "pets" / "train", (6, 5, 9))
    fill(tmp_path / "pets" / "test", (2, 1, 1))
    loaded = load(tmp_path / "pets")
    assert loaded.class_names == NAMES
    assert loaded.num_classes == 3
    assert loaded.train.images.shape == (18, 10, 12, 3)
    assert np.bincount(np.concatenate([loaded.train.labels, loaded.validation.labels])).tolist() == [6, 5, 9]
    assert loaded.test.labels.tolist() == [0, 0, 1, 2]
    expected = np.asarray(Image.open(tmp_path / "pets" / "test" / "dog" / "0.png"))
    np.testing.assert_array_equal(loaded.test.images[2], expected)


def test_a_folder_of_classes_alone_keeps_a_fixed_fifth_of_each_for_testing(tmp_path):
    fill(tmp_path / "pets", (10, 5, 6))
    first, again = load(tmp_path / "pets"), load(tmp_path / "pets")
    assert np.bincount(first.test.labels).tolist() == [2, 1, 1]
    np.testing.assert_array_equal(first.test.images, again.test.images)
    parts = [{image.tobytes() for image in split.images} for split in (first.train, first.validation, first.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 21


def test_all_become_one_size_and_grey_only_where_all_are(tmp_path):
    fill(tmp_path / "grey", (4, 4, 4), mode="L")
    assert load(tmp_path / "grey").train.images.shape[3] == 1
    write(tmp_path / "grey" / "cat" / "colour.png", size=(40, 20), mode="RGBA")
    with pytest.raises(DataError, match=r"colour\.png has another size.*40x20 pixels.*12x10.*--data\.side"):
        load(tmp_path / "grey")
    assert load(tmp_path / "grey", side=8).train.images.shape[1:] == (8, 8, 3)


def test_the_middle_square_is_kept(tmp_path):
    fill(tmp_path / "pets", (3, 3, 3))
    picture = np.zeros((8, 24, 3), np.uint8)
    picture[:, 8:16] = 255
    Image.fromarray(picture).save(tmp_path / "pets" / "cat" / "0.png")
    assert (read(tmp_path / "pets", Look(8)).train[0][0] == 255).all()


def test_files_that_cannot_be_read_are_named_and_left_out(tmp_path, caplog):
    fill(tmp_path / "pets", (5, 5, 5))
    (tmp_path / "pets" / "dog" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "pets" / "dog" / "notes.txt").write_text("passed over")
    loaded = load(tmp_path / "pets")
    assert "1 of 16 images cannot be read and are left out" in caplog.text
    assert "broken.png" in caplog.text
    assert len(loaded.train.labels) + len(loaded.validation.labels) + len(loaded.test.labels) == 15


def test_a_class_of_damaged_files_alone_is_refused(tmp_path):
    fill(tmp_path / "pets", (5, 5))
    (tmp_path / "pets" / "owl").mkdir()
    (tmp_path / "pets" / "owl" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="the class owl; got no image that can be read"):
        load(tmp_path / "pets")


@pytest.mark.parametrize(("counts", "words"), [((5,), "1 classes"), ((5, 1), "1 images of dog")])
def test_too_few_classes_or_images_are_refused(tmp_path, counts, words):
    fill(tmp_path / "pets", counts)
    with pytest.raises(DataError, match=words):
        load(tmp_path / "pets")


def test_a_class_that_only_test_has_is_refused(tmp_path):
    fill(tmp_path / "pets" / "train", (5, 5))
    fill(tmp_path / "pets" / "val", (2, 2, 2))
    with pytest.raises(DataError, match="the class owl; expected classes that train has"):
        load(tmp_path / "pets")


def test_an_unknown_name_says_how_a_folder_would_look(tmp_path):
    with pytest.raises(DataError, match="a folder pets with a folder of pictures for each class"):
        load(tmp_path / "pets")


def test_npz_files_may_name_their_classes(tmp_path):
    arrays = {"x_train": np.zeros((6, 4, 4, 1), np.uint8), "y_train": np.arange(6) % 2}
    arrays |= {"x_test": np.zeros((2, 4, 4, 1), np.uint8), "y_test": np.arange(2)}
    np.savez(tmp_path / "two.npz", **arrays, class_names=["no", "yes"])
    assert data.load(data.Data("two", validation=2), tmp_path).class_names == ("no", "yes")
    np.savez(tmp_path / "two.npz", **arrays, class_names=["no", "yes", "maybe"])
    with pytest.raises(DataError, match="names of the classes; got 3; expected 2"):
        data.load(data.Data("two", validation=2), tmp_path)
    np.savez(tmp_path / "two.npz", **arrays, class_names=[1, 2])
    with pytest.raises(DataError, match="class_names; got int64"):
        data.load(data.Data("two", validation=2), tmp_path)


@pytest.mark.slow
def test_the_names_go_with_the_set(tmp_path):
    fill(tmp_path / "pets", (20, 20, 20))
    method = kip.KIP(images_per_class=1, kernels=(kip.Architecture("FC", 1),), target_batch=30, steps=3)
    made = kip.Experiment(method, data=kip.Data("pets", validation=6))
    kip.run(made, tmp_path / "run", data_dir=tmp_path, show_progress=False)
    for name in ("distilled.npz", "initial.npz"):
        assert sets.load(tmp_path / "run" / name).class_names == list(NAMES)
