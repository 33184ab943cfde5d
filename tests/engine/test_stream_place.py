"""A stream that says where it stands is gone on with from there, and read no further than it has to be."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import IterableDataset

from ringfence import DataError
from ringfence.engine.data import Plan, batches
from ringfence.engine.read_data import ReadDataset
from ringfence.engine.sample_reader import SampleReader
from ringfence.engine.sequential_samples import SequentialSamples
from ringfence.engine.stream_place import StreamPlace

BATCH, STEPS, LENGTH = 4, 12, 21


class Forgetful(IterableDataset):
    """Passes of 21 samples that draw, in an order of their own; each that is read is noted in a file."""

    def __init__(self, noted):
        self.noted, self.at, self.epoch = noted, 0, -1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        while self.at < LENGTH:
            self.at += 1
            with self.noted.open("a") as file:
                file.write(f"{self.at}\n")
            yield torch.tensor([self.at, self.epoch, float(torch.rand(()))]), self.at % 2
        self.at = 0


class Streaming(Forgetful):
    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Restarting(Forgetful):
    """Without a state: each pass begins at its first sample."""

    def __iter__(self):
        self.at = 0
        return super().__iter__()


class Late(Streaming):
    """Says where it stands a batch too late."""

    def state_dict(self):
        return {"at": min(self.at + BATCH, LENGTH)}


class Progress:
    def __init__(self, step):
        self.progress = self
        self.step = step


def opened(kind, tmp_path, workers=0):
    samples = SequentialSamples(kind(tmp_path / "noted"))
    data = ReadDataset.of(SampleReader(samples, "the stream", None, workers), 2)
    object.__setattr__(data, "count", STEPS * BATCH)
    return samples, data


def read(data, first_step=0, until=STEPS):
    stream = batches(
        data, Plan(len(data), BATCH), 7, first_step=first_step, steps_total=STEPS, lr_factor=lambda _: 1.0
    )
    return [(batch.inputs, batch.targets) for batch, step in stream if step.global_step < until]


def taken(tmp_path):
    path = Path(tmp_path / "noted")
    lines = len(path.read_text().splitlines())
    path.unlink()
    return lines


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def stopped_at(samples, step):
    """What a checkpoint keeps after so many steps, though more was read by then."""
    place = StreamPlace(samples, BATCH)
    place.between_steps(Progress(step))
    return place.state_dict()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("step", [0, 1, 5, 6, 11])
def test_another_process_goes_on_where_the_state_says(tmp_path, workers, step):
    samples, data = opened(Streaming, tmp_path, workers)
    whole = read(data)
    kept = stopped_at(samples, step)
    assert kept["known"] == kept["place"] == step * BATCH
    fresh, again = opened(Streaming, tmp_path, workers)
    taken(tmp_path)

    StreamPlace(fresh, BATCH).load_state_dict(kept)

    assert same(read(again, first_step=step), whole[step:])
    assert taken(tmp_path) == (STEPS - step) * BATCH


@pytest.mark.parametrize("workers", [0, 1])
def test_without_a_state_all_is_read_again(tmp_path, workers):
    _, data = opened(Restarting, tmp_path, workers)
    whole = read(data)
    _, again = opened(Restarting, tmp_path, workers)
    taken(tmp_path)

    assert same(read(again, first_step=5), whole[5:])
    # Two were read to see what they are like, and in one process it goes on from these.
    assert taken(tmp_path) == STEPS * BATCH - (0 if workers else 2)


def test_a_state_that_is_late_gives_other_samples(tmp_path):
    samples, data = opened(Late, tmp_path)
    whole = read(data)
    fresh, again = opened(Late, tmp_path)
    StreamPlace(fresh, BATCH).load_state_dict(stopped_at(samples, 2))

    assert not same(read(again, first_step=2), whole[2:])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_is_rolled_back_reads_from_its_snapshot(tmp_path, workers):
    samples, data = opened(Streaming, tmp_path, workers)
    place = StreamPlace(samples, BATCH)
    whole = read(data)
    place.between_steps(Progress(4))
    kept = place.state_dict()
    assert min(samples.marks) == 4 * BATCH  # what is before is of no use any more
    taken(tmp_path)

    place.load_state_dict(kept)

    assert same(read(data, first_step=4), whole[4:])
    assert taken(tmp_path) == (STEPS - 4) * BATCH
    # From its start, as statistics of an average are measured.
    assert same(read(data, until=3), whole[:3])


@pytest.mark.parametrize("state", [object(), {"at": {1, 2}}, {"at": torch.zeros(5 << 20)}])
def test_a_state_that_is_no_plain_data_is_told_at_once(tmp_path, state):
    class Odd(Streaming):
        def state_dict(self):
            return state

    with pytest.raises(DataError, match=r"state_dict\(\) of Odd returned what cannot be saved: "):
        opened(Odd, tmp_path)


def test_a_state_that_cannot_be_told_names_the_line(tmp_path):
    class Fails(Streaming):
        def state_dict(self):
            raise OSError("no file")

    with pytest.raises(DataError, match=r"state_dict\(\) of Fails raised OSError: no file, at .*test_stream"):
        opened(Fails, tmp_path)


def test_a_data_set_that_does_not_take_its_state_is_named(tmp_path):
    class Refuses(Streaming):
        def load_state_dict(self, state):
            raise KeyError("offset")

    with pytest.raises(DataError, match=r"load_state_dict\(\) of Refuses raised KeyError: 'offset', at "):
        opened(Refuses, tmp_path)
