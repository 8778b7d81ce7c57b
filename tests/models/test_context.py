"""What a worker holds: the model, its batches, its memory."""

from __future__ import annotations

import pickle
import weakref

import pytest
import torch
from support.whole_jobs import MODEL

from diffstyle.errors import CheckpointError
from pipeline.models.session import LoadedModel, ModelLoader, model_facts, resolve_device


def contexts(batch: int) -> LoadedModel:
    return LoadedModel(None, "cpu", batch)  # type: ignore[arg-type]


def test_every_batch_has_the_same_size_and_nothing_is_made_twice():
    seen = []

    def run(indices):
        seen.append(list(indices))
        return [10 * i for i in indices]

    assert contexts(3).in_batches(7, run) == [0, 10, 20, 30, 40, 50, 60]
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert contexts(3).in_batches(0, run) == []


def test_batches_are_halved_for_good_when_memory_runs_out(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    prepared = []
    context = LoadedModel(None, "cpu", 8, lambda batch: prepared.append(batch) or "ready")  # type: ignore[arg-type]
    tried = []

    def run(indices):
        tried.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return list(indices)

    assert context.in_batches(5, run) == [0, 1, 2, 3, 4]
    assert tried == [8, 4, 2, 2, 2]
    assert context.batch == 2
    assert prepared == [8, 4, 2]  # graphs are of one batch size
    with pytest.raises(torch.OutOfMemoryError):
        contexts(1).in_batches(1, lambda indices: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))


def test_a_batch_too_large_to_be_made_fast_is_halved_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def speed_up(batch: int) -> str:
        if batch > 2:
            raise torch.OutOfMemoryError("out of memory")
        return f"graphs of {batch}"

    context = LoadedModel(None, "cuda", 8, speed_up)  # type: ignore[arg-type]
    assert context.batch == 2
    assert context.note == "out of device memory: going on with batches of 2; graphs of 2"


def test_the_memory_of_a_failed_batch_is_free_before_the_next(monkeypatch):
    class Large:
        pass

    alive, held = [], []

    def run(indices):
        large = Large()
        held.append(weakref.ref(large))
        if len(indices) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return list(indices)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    assert contexts(2).in_batches(2, run) == [0, 1]
    assert alive == [False]


def test_other_errors_are_no_reason_to_try_again():
    with pytest.raises(ZeroDivisionError):
        contexts(4).in_batches(4, lambda indices: [1 // 0])


def test_a_maker_travels_and_makes_the_same_model():
    facts = model_facts(str(MODEL), None)
    assert (facts.name, facts.image_size, facts.h_shape) == ("tiny", 32, (64, 8, 8))
    maker = ModelLoader(str(MODEL), None, facts.fingerprint, "cpu", "bfloat16", 2)
    context = pickle.loads(pickle.dumps(maker))()
    assert (context.unet.fingerprint, context.unet.dtype, context.batch) == (facts.fingerprint, torch.bfloat16, 2)


def test_other_weights_than_the_drivers_are_refused():
    with pytest.raises(CheckpointError, match="model tiny: this worker loaded other weights than the driver"):
        ModelLoader(str(MODEL), "random:1", model_facts(str(MODEL), None).fingerprint, "cpu", "float32", 2)()


def test_random_weights_are_a_model_of_their_own():
    prints = {model_facts(str(MODEL), weights).fingerprint for weights in (None, "random:0", "random:1")}
    assert len(prints) == 3


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_device_that_was_asked_for_is_taken(device):
    assert resolve_device(device) == device
