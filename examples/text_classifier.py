"""Text: a small DistilBERT of the transformers package, made from a config, with inputs by name and outputs by name.

mixbit train examples/text_classifier.py:task --run runs/text --epochs 10
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

import mixbit

VOCABULARY, LENGTH, PADDING, KEY = 50, 12, 0, 7


def sentences(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Token ids with padding behind them; the label says whether the token 7 is among them."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for at in range(count):
        ids = torch.randint(KEY + 1, VOCABULARY, (LENGTH,), generator=random)
        length = int(torch.randint(6, LENGTH + 1, (1,), generator=random))
        if at % 2:
            ids[torch.randint(0, length, (1,), generator=random)] = KEY
        mask = (torch.arange(LENGTH) < length).long()
        found.append({"input_ids": ids * mask, "attention_mask": mask, "labels": torch.tensor(at % 2)})
    return found


def task() -> mixbit.Task:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=32,
        hidden_dim=64,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=LENGTH,
        num_labels=2,
    )
    return mixbit.Task(
        model=DistilBertForSequenceClassification(config),
        train=DataLoader(sentences(256, seed=0), batch_size=32, shuffle=True),
        test=DataLoader(sentences(64, seed=1), batch_size=64),
        read=mixbit.data.read_keys(["input_ids", "attention_mask"], "labels"),
        output="logits",
        loss=F.cross_entropy,
    )
