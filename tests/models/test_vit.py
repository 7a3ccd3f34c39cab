"""The vision transformer of the transformers package."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

from mixbit import models
from mixbit.errors import MissingExtra
from mixbit.models import vit
from tests.needs import why

TINY = {"image_size": 16, "patch_size": 8, "hidden_size": 12, "layers": 1, "heads": 2, "num_classes": 3}


def test_it_gives_logits_under_the_packages_own_keys() -> None:
    pytest.importorskip("transformers", reason=why("transformers"))
    net = models.build("vit-tiny-hf", **TINY).eval()
    with torch.inference_mode():
        assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    assert "vit.embeddings.cls_token" in net.state_dict()
    assert "classifier.bias" in net.state_dict()
    with torch.inference_mode():
        assert copy.deepcopy(net)(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_without_transformers_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    vit._logits_class.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match="pip install") as caught:
        models.build("vit-tiny-hf")
    assert isinstance(caught.value.__cause__, ImportError)
