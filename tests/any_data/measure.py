"""Load a run in a process that has not trained it, and tell what its model does: ``measure.py KIND RUN``.

To be run in the folder that holds ``kinds.py``.
"""

import json
import sys

import torch
from safetensors.torch import load_file

import ringfence
from ringfence import tensors_of
from ringfence.tensors.tree_form import tensors_within

sys.path.insert(0, ".")
import kinds

torch.set_num_threads(1)
kind, run = sys.argv[1:]
_, test = getattr(kinds, kind)()
inputs, _ = kinds.batch_of(kind, [test[i] for i in range(len(test))])
model = ringfence.load(run, "last", trust_code=True)
network = kinds.model_of(kind).eval()
# A tied weight is there once.
network.load_state_dict(load_file(f"{run}/model.safetensors"), strict=False)
with torch.no_grad():
    trees = [tensors_within(outputs) for outputs in (model(inputs), kinds.called(network, inputs))]
same = all(map(torch.equal, *map(tensors_of, trees)))
predicted = ringfence.predict(run, inputs, checkpoint="last", trust_code=True)
# Of what a model returns beside its prediction, such as a loss, nothing is told of samples.
whole = tensors_of(predicted.outputs)
same = same and all(any(torch.equal(mine, tensor) for tensor in tensors_of(trees[0])) for mine in whole)
print(json.dumps({"same": same, "test": ringfence.evaluate(run, checkpoint="last", trust_code=True)["test"]}))
