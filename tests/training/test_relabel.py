"""Stored labels of views: equal to a teacher that sees them, small, and made part by part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.errors import ConfigError, DataError, NonFiniteError
from kip.evaluate.cells import Candidate, judge, stored_bytes
from kip.networks.model import Model, Network
from kip.rng import key
from kip.storage.artefacts import Artefact
from kip.training import relabel as module
from kip.training.augment import augment_images
from kip.training.batches import Batches
from kip.training.mix import mix_images
from kip.training.post_training import post_train
from kip.training.protocols import PROTOCOLS
from kip.training.relabel import of_update, relabel
from kip.training.supervised import MIXING, Labeller, train

MODEL, STUDENT = Model(Network("FC1", width=8, norm="batch"), 3), Model(Network("FC1", width=6), 3)
PROTOCOL = dataclasses.replace(
    PROTOCOLS["SL+KD"], epochs=12, batch=8, augment="flip_shift", mix="cutmix", rate=0.02, labels="stored views"
)


def images(count=20):
    return np.random.default_rng(3).standard_normal((count, 8, 8, 1)).astype(np.float32)


def teacher(seed=0):
    return Labeller(MODEL, MODEL.init(jax.random.key(seed), (8, 8, 1)))


def classes(count=20):
    return np.eye(3, dtype=np.float32)[np.arange(count) % 3]


def recipe(**changes):
    return dataclasses.replace(PROTOCOL, **changes).recipe(20, mirror_keeps_class=True)


@pytest.mark.slow
def test_labels_are_the_teachers_for_the_views_that_the_key_draws(store):
    taught, views, of = teacher(), key(0, "views"), recipe()
    assert of.steps == 36, "12 epochs of batches of 8, 8 and 4"
    read = relabel([taught], of, images(), views, store).reader()
    batches = Batches(20, 8)
    for step in (0, 5, 35):
        indices = batches.indices(jax.random.fold_in(views, 1), jnp.asarray(step), 8 if step == 0 else 4)
        drawing = of_update(views, step)
        seen = augment_images("flip_shift", drawing, jnp.asarray(images())[indices])
        seen = mix_images("cutmix", jax.random.fold_in(drawing, MIXING), seen).images
        expected = MODEL.apply(taught.variables, seen).logits
        labels = read(step)
        assert labels.dtype == jnp.float16
        np.testing.assert_allclose(labels, expected, rtol=2e-3, atol=2e-3)
    assert not np.array_equal(read(0), read(2))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.slow
def test_networks_learn_from_stored_labels_what_they_learn_from_the_teacher(store, count):
    taught, views, of = teacher(), key(0, "views"), recipe()
    keys = jnp.stack([key(0, "student", index) for index in range(count)])
    arguments = STUDENT, of, keys, np.full(count, 0.02), np.full(count, 0.01), images(), classes(), None
    online = train(*arguments, teacher=taught, views=views)
    stored = train(*arguments, views=views, stored=relabel([taught], of, images(), views, store).reader)
    start = STUDENT.init(jax.random.fold_in(keys[0], 0), (8, 8, 1))
    for ours, theirs in zip(stored.variables, online.variables):
        for a, b, begun in zip(*(jax.tree.leaves(each) for each in (ours, theirs, start))):
            np.testing.assert_allclose(a, b, atol=5e-3)
            assert np.abs(np.asarray(b) - begun).max() > 0.05, "it moved much farther than float16 can explain"
    if count > 1:
        assert not np.allclose(jax.tree.leaves(stored.variables[0])[0], jax.tree.leaves(stored.variables[1])[0])


@pytest.mark.slow
def test_several_teachers_give_the_mean_of_their_logits(store):
    views, of = key(0, "views"), recipe()
    first, second, both = (
        relabel(some, of, images(), views, store).reader()(3)
        for some in ([teacher(0)], [teacher(1)], [teacher(0), teacher(1)])
    )
    np.testing.assert_allclose(both, (np.asarray(first, np.float32) + np.asarray(second, np.float32)) / 2, atol=2e-3)


class Killed(BaseException):
    """Stands for a kill."""


def files(store):
    return {path.name: path.read_bytes() for path in sorted((store.artefact("x", 0).path.parent).glob("labels*"))}


def test_killed_between_parts_it_goes_on_and_the_bits_are_the_same(store, tmp_path, monkeypatch):
    from kip.storage.artefacts import Store

    views, of, saves = key(0, "views"), recipe(), []
    whole = Store(tmp_path / "whole", show_progress=False)
    relabel([teacher()], of, images(), views, whole)
    real = Artefact.save

    def dying(self, tree):
        saves.append(self.path.name)
        if len(saves) == 4:
            raise Killed
        real(self, tree)

    monkeypatch.setattr(Artefact, "save", dying)
    with pytest.raises(Killed):
        relabel([teacher()], of, images(), views, store)
    assert len(files(store)) == 3
    resumed = relabel([teacher()], of, images(), views, store)
    assert len(saves) == 4 + 6 - 3, "the parts that were there are not made again"
    ours, theirs = files(store), files(whole)
    assert ours.keys() == theirs.keys()
    first, second = resumed.reader(), relabel([teacher()], of, images(), views, whole).reader()
    for step in range(of.steps):
        np.testing.assert_array_equal(first(step), second(step))


def test_the_bytes_are_those_of_the_arrays(store):
    stored = relabel([teacher()], recipe(), images(), key(0, "views"), store)
    assert stored.num_bytes == 12 * 2 * 20 * 3 + 36 * 8 == module.stored_bytes(recipe(), 20, 3)
    candidate = Candidate("set", images(), classes())
    assert stored_bytes(candidate, PROTOCOL) == 4 * 20 * 64 + stored.num_bytes
    weighted = dataclasses.replace(PROTOCOL, class_weight=0.1)
    assert stored_bytes(candidate, weighted) == 4 * 20 * 64 + stored.num_bytes + 20
    online = dataclasses.replace(PROTOCOL, labels="teacher on views")
    assert stored_bytes(candidate, online) == 4 * 20 * 64 + 12 * 20 * 3 * 4


def test_parts_are_whole_epochs_of_a_bounded_size(store, monkeypatch):
    monkeypatch.setattr(module, "PART_BYTES", 100)
    stored = relabel([teacher()], recipe(), images(), key(0, "views"), store)
    assert len(files(store)) == 12, "an epoch each"
    assert stored.like(0)["logits"].shape == (20, 3)


@pytest.mark.slow
def test_a_protocol_judges_by_stored_labels_and_reports_their_bytes(store):
    candidate = Candidate("set", images(), classes())
    test = images(9), np.arange(9) % 3
    options = {"test": test, "mirror_keeps_class": True, "teachers": [teacher()], "store": store, "seeds": 2}
    cell = judge(candidate, STUDENT.network, PROTOCOL, **options)
    assert cell.set_bytes == stored_bytes(candidate, PROTOCOL)
    assert len(cell.accuracies) == 2
    assert judge(candidate, STUDENT.network, PROTOCOL, **options).accuracies == cell.accuracies


def test_teachers_that_do_not_fit_are_refused(store, monkeypatch):
    arguments = STUDENT, dataclasses.replace(PROTOCOL, labels="teacher on views"), images(), classes()
    with pytest.raises(ConfigError, match="stored views"):
        post_train(*arguments, key(0, "a")[None], mirror_keeps_class=True, teachers=[teacher(), teacher(1)])
    broken = teacher()._replace(variables=jax.tree.map(lambda leaf: leaf * 1e6, teacher().variables))
    with pytest.raises(NonFiniteError, match="float16"):
        relabel([broken], recipe(), images(), key(0, "views"), store)
    stored = relabel([teacher()], recipe(), images(), key(0, "views"), store)
    for path in store.artefact("x", 0).path.parent.glob("labels*"):
        path.unlink()
    with pytest.raises(DataError, match="made again"):
        stored.reader()(0)
