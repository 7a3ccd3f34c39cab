"""The published MobileNetV2 of TensorFlow with its batch norm folded, and photographs for it: shared by benchmarks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixbit.data import TensorSplit
from mixbit.models._same import same_pad

SIZE, CLASSES = 224, 1001  # class 0 is the background
HALF = (0.5, 0.5, 0.5)  # RGB / 127.5 - 1
# Output channels, repeats and first stride of each stage (Sandler et al. 2018, table 2), expansion 6 but for the first.
STAGES = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))


class Block(nn.Module):
    """1x1 expansion, 3x3 depthwise with SAME padding, linear 1x1 projection; biases hold the folded batch norm."""

    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        if expansion > 1:
            self.expand = nn.Conv2d(channels, hidden, 1)
        self.dw = nn.Conv2d(hidden, hidden, 3, stride, 1 if stride == 1 else 0, groups=hidden)
        self.project = nn.Conv2d(hidden, out, 1)
        self.stride, self.expands, self.residual = stride, expansion > 1, stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self.expand(x)) if self.expands else x
        out = out if self.stride == 1 else same_pad(out, (3, 3), self.stride)
        out = self.project(F.relu6(self.dw(out)))
        return x + out if self.residual else out


class FoldedMobileNetV2(nn.Module):
    """Map images (N, 3, 224, 224) to logits (N, 1001)."""

    def __init__(self) -> None:
        super().__init__()
        stem, channels = nn.Conv2d(3, 32, 3, 2), 32
        blocks: list[nn.Module] = []
        for number, (out, repeats, stride) in enumerate(STAGES):
            for repeat in range(repeats):
                blocks.append(Block(channels, out, stride if repeat == 0 else 1, 6 if number else 1))
                channels = out
        self.features = nn.Sequential(stem, *blocks, nn.Conv2d(channels, 1280, 1))
        self.classifier = nn.Linear(1280, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu6(self.features[0](same_pad(x, (3, 3), 2)))
        for block in self.features[1:-1]:
            out = block(out)
        out = F.relu6(self.features[-1](out)).mean((2, 3))
        logits: Tensor = self.classifier(out)
        return logits


def mobilenet_tf(weights: Path) -> nn.Module:
    """The network with its published weights, which lie on an 8-bit grid: (weight_q - weight_zp) * weight_scale."""
    from safetensors.torch import load_file

    found, model = load_file(weights), FoldedMobileNetV2()
    state = {}
    for key, shape in ((name, value.shape) for name, value in model.state_dict().items()):
        layer, _, leaf = key.rpartition(".")
        if leaf == "bias":
            state[key] = found[key]
            continue
        column = (-1, *[1] * (found[f"{layer}.weight_q"].dim() - 1))
        weight = found[f"{layer}.weight_q"].float() - found[f"{layer}.weight_zp"].float().view(column)
        state[key] = (weight * found[f"{layer}.weight_scale"].view(column)).reshape(shape)
    model.load_state_dict(state)
    return model.eval()


def photographs(folder: Path, count: int | None = None) -> TensorSplit:
    """ImageNet-compatible photographs (CC-BY 2.0, `attribution.csv`), the whole image at 224 x 224."""
    from PIL import Image

    stored = np.load(folder / "nips17_ccby.npz")
    offset, data = stored["offset"], stored["data"]
    total = len(stored["y"]) if count is None else count
    images = [Image.open(io.BytesIO(data[offset[i] : offset[i + 1]].tobytes())) for i in range(total)]
    pixels = torch.stack([_resized(np.asarray(image.convert("RGB"))) for image in images])
    labels = torch.from_numpy(stored["y"][:total].astype(np.int64)) + 1
    return TensorSplit(pixels, labels, CLASSES, HALF, HALF, source="photographs")


def enlarged(split: TensorSplit, chosen: Tensor) -> TensorSplit:
    """Small RGB images at the network's input size, with the labels that they have."""
    pixels = torch.stack([_resized(image.permute(1, 2, 0).numpy()) for image in split.images[chosen]])
    return TensorSplit(pixels, split.labels[chosen], CLASSES, HALF, HALF, source="enlarged images")


def relabelled(split: TensorSplit, labels: Tensor) -> TensorSplit:
    """The same images with other labels."""
    return TensorSplit(split.images, labels, CLASSES, HALF, HALF, source="relabelled images")


def _resized(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) bytes to (3, 224, 224) bytes, bilinear with antialiasing."""
    from PIL import Image

    image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
