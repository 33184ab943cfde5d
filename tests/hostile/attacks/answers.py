"""Replies of a plugin's own making, by plugins of every role: reports, losses and batches that cannot be."""

import inside
from frames import done
from hostile import Hostile, passthrough

from ringfence.isolation.transport.messages import WireHistogram, WireImage, WireReport, encoder

_NAN, _INF = float("nan"), float("inf")


def _report(n, **fields):
    return done(n, "report", report=WireReport(**{"scalars": {}, "histograms": {}, "images": {}, **fields}))


def _picture(height, width, channels, data=b""):
    return lambda n: _report(n, images={"a": WireImage(height, width, channels, data)})


def _histogram(counts, edges):
    return lambda n: _report(n, histograms={"a": WireHistogram(counts, edges)})


def _written(byte, answer):
    """Fill the memory that the result is read from, and say that the result is there."""

    def make(n):
        inside.result().fill_(byte)
        return answer(n)

    return make


#: What each role may answer with, and does not mean.
ANSWERS = {
    "picture_of_negative_sides": _picture(-2, -2, 0, b"1234"),
    "picture_of_2_to_62": _picture(1 << 31, 1 << 31, 0),
    "picture_of_2_to_64": _picture(1 << 63, 2, 0),
    "picture_without_bytes": _picture(4, 4, 3, b"1"),
    "picture_of_no_size": _picture(0, 0, 0),
    "picture_of_many_channels": _picture(1, 1, 1 << 40),
    "picture_too_wide": _picture(1, 2000, 0, bytes(2000)),
    "counts_that_are_none": _histogram([_NAN], [0.0, 1.0]),
    "counts_below_zero": _histogram([-1.0], [0.0, 1.0]),
    "edges_that_fall": _histogram([1.0], [1.0, 0.0]),
    "edges_without_end": _histogram([1.0], [0.0, _INF]),
    "edges_too_few": _histogram([1.0, 1.0], [0.0, 1.0]),
    "scale_of_nan": lambda n: done(n, "loss_scale", _NAN),
    "scale_of_infinity": lambda n: done(n, "loss_scale", _INF),
    "term_of_nan": lambda n: done(n, "loss_term", _NAN),
    "gradient_of_nan": _written(0xFF, lambda n: done(n, "loss_term", 1.0)),
    "map_for_a_loss": lambda n: done(n, "map"),
    "inputs_of_nan": _written(0xFF, lambda n: done(n, "batch")),
    "classes_that_are_none": _written(0x3F, lambda n: done(n, "batch")),
    "probabilities_of_nan": _written(0xFF, lambda n: done(n, "soft_batch")),
    "pass_for_a_batch": lambda n: done(n, "another_pass"),
}


class _Answering(Hostile):
    def answer(self):
        inside.worker()._sock.send(encoder.encode(ANSWERS[self.attack](inside.call().seq)))


class Reporting(_Answering):
    role = "monitor"

    def backward(self, step):
        self.answer()


class Scaling(_Answering):
    backward = passthrough

    def forward(self, outputs, step):
        self.answer()


class Augmenting(_Answering):
    role = "augment"
    backward = passthrough

    def forward(self, batch, step):
        self.answer()
