"""The doctor says of each layer what starting a real sandbox has shown."""

from ringfence.isolation.doctor import examine
from ringfence.isolation.policy.layer_status import LAYERS, REQUIRED


def test_every_layer_is_told_and_every_required_one_is_verified():
    layers = {layer.name: layer for layer in examine()}
    assert list(layers) == [name for name in LAYERS if name in layers]
    assert set(layers) == set(LAYERS)
    for name in REQUIRED:
        assert layers[name].status in ("active", "degraded"), layers[name]
        assert layers[name].verified_by
