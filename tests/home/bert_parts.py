"""A BERT of transformers, made from its configuration, its data, and a loop in plain PyTorch over them.

``bert_parts.py START.safetensors OUT.safetensors`` runs the loop; with one name it writes where both start.
"""

import sys

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset

WORDS, SAMPLES = 30, 37
BATCH, ACCUMULATED, EPOCHS, RATE, SEED = 8, 3, 2, 0.05, 3


def bert():
    # Here, as the tests read the numbers above where there is no such package.
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForSequenceClassification(config)


class Sentences(Dataset):
    def __init__(self, first, count):
        self.first, self.count = first, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(self.first + index)
        length = 3 + int(torch.randint(8, (), generator=generator))
        tokens = torch.randint(1, WORDS, (length,), generator=generator)
        return tokens, int(tokens.float().mean() > WORDS / 2)


def data():
    return Sentences(0, SAMPLES), Sentences(1000, 9)


def pad(items):
    tokens = torch.nn.utils.rnn.pad_sequence([tokens for tokens, _ in items], batch_first=True)
    return {"input_ids": tokens, "attention_mask": (tokens != 0).long()}, torch.tensor([y for _, y in items])


def train_in_plain_torch(start):
    from ringfence.engine.data import epoch_order

    model, (train, _) = bert(), data()
    model.load_state_dict(start, strict=False)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), RATE, 0.9)
    for epoch in range(EPOCHS):
        batches = epoch_order(SAMPLES, SEED, epoch).split(BATCH)
        for first in range(0, len(batches), ACCUMULATED):
            step = batches[first : first + ACCUMULATED]
            total = sum(map(len, step))
            for rows in step:
                inputs, labels = pad([train[i] for i in rows.tolist()])
                loss = model(**inputs, labels=labels).loss
                (loss / (total / len(rows)) if len(step) > 1 else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    start, *out = sys.argv[1:]
    if out:
        save_file(train_in_plain_torch(load_file(start)), out[0])
    else:
        save_file(bert().state_dict(), start)
