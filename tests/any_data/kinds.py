"""A small task of each kind: data, a model and a loss of a user's, beside the job that names them."""

import dataclasses

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset, default_collate

SAMPLES, TESTED = 53, 11
WORDS = 20


def draw(index, count=0):
    return torch.Generator().manual_seed(1000 * count + index)


class Made(Dataset):
    """Samples that ``make`` makes of their place."""

    def __init__(self, make, first=0, count=SAMPLES):
        self.make, self.first, self.count = make, first, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return self.make(self.first + index)


def parts(make):
    return Made(make), Made(make, SAMPLES, TESTED)


# text: tokens with a mask, padded in each batch


def text():
    return parts(_text)


def _text(index):
    length = 2 + int(torch.randint(9, (), generator=draw(index)))
    tokens = torch.randint(2, WORDS, (length,), generator=draw(index, 1))
    return tokens, int(tokens.float().mean() > WORDS / 2)


def pad(items):
    tokens = nn.utils.rnn.pad_sequence([tokens for tokens, _ in items], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(t)) for t, _ in items], batch_first=True)
    return {"input_ids": tokens, "attention_mask": mask}, torch.tensor([target for _, target in items])


@dataclasses.dataclass
class Outputs:
    logits: torch.Tensor
    hidden: torch.Tensor
    cache: object = None


class TextNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        hidden = self.embedding(input_ids) * attention_mask[..., None]
        return Outputs(self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True)), hidden, cache=object())


# segmentation: a class for each pixel, some of which do not count


def segmentation():
    return parts(_segmentation)


def _segmentation(index):
    image = torch.rand(3, 8, 8, generator=draw(index))
    classes = (image.sum(0) > 1.5).long()
    return image, classes.masked_fill(torch.rand(8, 8, generator=draw(index, 1)) < 0.1 * (index % 5), -100)


class PixelNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, images):
        return self.head(self.body(images).relu())


# boxes: as many as there are, in a list of one a sample


def boxes():
    return parts(_boxes)


def _boxes(index):
    count = 1 + index % 3
    corners = torch.rand(count, 2, generator=draw(index)) * 4
    image = torch.zeros(1, 8, 8)
    for x, y in corners.int().tolist():
        image[0, y : y + 4, x : x + 4] += 0.25
    return image, {"boxes": torch.cat([corners, corners + 4], 1), "labels": torch.ones(count).long()}


def in_lists(items):
    return torch.stack([image for image, _ in items]), [target for _, target in items]


class BoxNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.boxes, self.scores = nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, images):
        hidden = self.body(images)
        return {"boxes": self.boxes(hidden), "scores": self.scores(hidden)}


def box_loss(outputs, targets):
    near = torch.stack([each["boxes"].mean(0) for each in targets])
    classes = torch.stack([each["labels"][0] for each in targets])
    return functional.smooth_l1_loss(outputs["boxes"], near) + functional.cross_entropy(
        outputs["scores"], classes
    )


# several labels a sample


def multi_label():
    return parts(_multi_label)


def _multi_label(index):
    inputs = torch.randn(6, generator=draw(index))
    return inputs, (inputs[:3] > 0).float()


class LabelNet(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)


# a table with categories


def table():
    return parts(_table)


def _table(index):
    numbers = torch.randn(4, generator=draw(index))
    categories = torch.randint(5, (2,), generator=draw(index, 1))
    return {"numbers": numbers, "categories": categories, "price": (numbers.sum() + categories.sum())[None]}


class TableNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(10, 1)

    def forward(self, numbers, categories):
        return self.head(torch.cat([numbers, self.embedding(categories).flatten(1)], 1))


# the next token, of sequences of different lengths


def language():
    return parts(_language)


def _language(index):
    length = 3 + index % 8
    return (torch.arange(length + 1) * (1 + index % 3)) % WORDS


def shift(items):
    tokens = nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=-100)
    return {"input_ids": tokens[:, :-1].clamp(min=0)}, tokens[:, 1:]


class LanguageNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 8)
        self.body = nn.LSTM(8, 8, batch_first=True)

    def forward(self, input_ids):
        hidden, _ = self.body(self.embedding(input_ids))
        # Tied to the tokens that go in.
        return hidden @ self.embedding.weight.T


def token_loss(outputs, targets):
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


# an autoencoder: targets are the inputs


def autoencoder():
    return parts(_alone)


def _alone(index):
    return torch.rand(1, 6, 6, generator=draw(index))


class AutoNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.narrow, self.wide = nn.Linear(36, 5), nn.Linear(5, 36)

    def forward(self, images):
        return self.wide(self.narrow(images.flatten(1)).relu()).view_as(images)


# contrastive pairs: two views of a sample, and no target


def pairs():
    return parts(_pairs)


def _pairs(index):
    sample = torch.randn(6, generator=draw(index))
    views = [sample + 0.1 * torch.randn(6, generator=draw(index, n)) for n in (1, 2)]
    return {"first": views[0], "second": views[1], "index": index}


class PairNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 4)

    def forward(self, first, second):
        return self.body(first), self.body(second)


def pair_loss(outputs, _targets):
    first, second = (functional.normalize(each, dim=1) for each in outputs)
    return functional.cross_entropy(first @ second.T / 0.1, torch.arange(len(first)))


# audio: one dimension, in lists of channels


def audio():
    return parts(_audio)


def _audio(index):
    pitch = index % 3
    time = torch.linspace(0, 1, 64)
    return torch.sin(2 * torch.pi * (4 + 6 * pitch) * time + index)[None], pitch


class AudioNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 4, 9, stride=4), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten()
        )
        self.head = nn.Linear(16, 3)

    def forward(self, waves):
        return self.head(self.body(waves))


# two inputs, one after the other


def two_inputs():
    return parts(_two)


def _two(index):
    one, other = torch.randn(4, generator=draw(index)), torch.randn(3, generator=draw(index, 1))
    return (one, other), (one.sum() + other.sum())[None]


class TwoNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(4, 5), nn.Linear(3, 5)
        self.head = nn.Linear(5, 1)

    def forward(self, one, other):
        return self.head((self.one(one) + self.other(other)).relu())


# two networks against each other, trained by turns


def gan():
    return parts(_gan)


def _gan(index):
    real = 1 + 0.3 * torch.randn(2, generator=draw(index))
    return {"noise": torch.randn(3, generator=draw(index, 1)), "real": real, "index": index}


class GanNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
        self.judge = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1))

    def forward(self, noise, real):
        return {"real": self.judge(real), "made": self.judge(self.maker(noise))}


def tell_apart(outputs, _targets):
    real, made = (outputs[name].flatten() for name in ("real", "made"))
    return functional.softplus(-real).mean() + functional.softplus(made).mean()


def deceive(outputs, _targets):
    return functional.softplus(-outputs["made"]).mean()


# a stream of unknown length, whose passes follow on each other, and which says where it stands


def stream():
    return Stream(), Made(_alike, SAMPLES, TESTED)


class Stream(IterableDataset):
    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < SAMPLES:
            self.at += 1
            yield _alike(self.at - 1)
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def _alike(index):
    inputs = torch.randn(5, generator=draw(index))
    return inputs, int(inputs.sum() > 0)


class StreamNet(nn.Linear):
    def __init__(self):
        super().__init__(5, 2)


def by_tokens(targets):
    return int((targets != -100).sum())


#: Kind to the keys of its job, its loss in plain PyTorch, and what that is a mean over (None: samples).
KINDS = {
    "text": (
        {"model": "kinds:TextNet", "data": {"collate": "kinds:pad", "classes": 2}, "metric": "accuracy"},
        lambda outputs, targets: functional.cross_entropy(outputs.logits, targets),
        None,
    ),
    "segmentation": (
        {"model": "kinds:PixelNet", "data": {"classes": 2}, "metric": "iou"},
        functional.cross_entropy,
        by_tokens,
    ),
    "boxes": (
        {
            "model": "kinds:BoxNet",
            "data": {"collate": "kinds:in_lists"},
            "loss": "kinds:box_loss",
            "metric": "loss",
        },
        box_loss,
        None,
    ),
    "multi_label": (
        {"model": "kinds:LabelNet", "loss": "bce", "metric": "binary_accuracy"},
        functional.binary_cross_entropy_with_logits,
        None,
    ),
    "table": (
        {"model": "kinds:TableNet", "data": {"target": "price"}, "loss": "mse", "metric": "mae"},
        functional.mse_loss,
        None,
    ),
    "language": (
        {
            "model": "kinds:LanguageNet",
            "data": {"collate": "kinds:shift", "classes": WORDS},
            "loss": {"name": "cross_entropy", "class_dim": -1},
            "metric": "perplexity",
        },
        token_loss,
        by_tokens,
    ),
    "autoencoder": ({"model": "kinds:AutoNet", "loss": "mse", "metric": "loss"}, functional.mse_loss, None),
    "pairs": (
        {"model": "kinds:PairNet", "data": {"target": "index"}, "loss": "kinds:pair_loss", "metric": "loss"},
        pair_loss,
        None,
    ),
    "audio": (
        {"model": "kinds:AudioNet", "data": {"classes": 3}, "metric": "accuracy"},
        functional.cross_entropy,
        None,
    ),
    "gan": (
        {
            "model": "kinds:GanNet",
            "data": {"target": "index"},
            "alternate": [
                {"match": "judge.*", "loss": "kinds:tell_apart", "steps": 2},
                {"match": "maker.*", "loss": "kinds:deceive"},
            ],
            "loss": "kinds:deceive",
            "metric": "loss",
        },
        {"judge": tell_apart, "maker": deceive},
        None,
    ),
    "stream": (
        {
            "model": "kinds:StreamNet",
            "data": {"classes": 2},
            "metric": "accuracy",
            "steps": 11,
            "eval_every": 4,
        },
        functional.cross_entropy,
        None,
    ),
    "two_inputs": ({"model": "kinds:TwoNet", "loss": "mse", "metric": "r2"}, functional.mse_loss, None),
}


def model_of(kind):
    return globals()[KINDS[kind][0]["model"].partition(":")[2]]()


def turns_of(kind):
    """Return, step after step, what is trained, by what its names begin with, and by which loss."""
    job, criterion, _ = KINDS[kind]
    if "alternate" not in job:
        return [("", criterion)]
    parts = [(turn["match"].removesuffix(".*"), turn.get("steps", 1)) for turn in job["alternate"]]
    return [(name, criterion[name]) for name, steps in parts for _ in range(steps)]


def batch_of(kind, samples):
    """Return inputs and targets of a list of samples, as the kind's job has them made."""
    options = KINDS[kind][0].get("data", {})
    collate = globals()[options["collate"].partition(":")[2]] if "collate" in options else default_collate
    made = collate(samples)
    if "target" in options:
        target = made.pop(options["target"])
        return made, target
    return (made, made) if isinstance(made, torch.Tensor) else made


def called(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, list) else model(inputs)
