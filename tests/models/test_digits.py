"""The network of `make demo` learns its digits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from mixbit import data, models


def test_shapes_and_shortcuts() -> None:
    net = models.digits_resnet(num_classes=3, width=4, in_channels=2).eval()
    with torch.inference_mode():
        assert net(torch.zeros(2, 2, 8, 8)).shape == (2, 3)
    assert net.layer1.downsample is None
    assert [m.kernel_size for m in net.layer2.downsample if isinstance(m, nn.Conv2d)] == [(1, 1)]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Layers this small gain nothing from a second thread, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_over_97_percent_in_six_short_epochs() -> None:
    torch.manual_seed(0)
    digits, epochs, batch = data.load("digits"), 6, 64
    net = models.build("digits-resnet")
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = epochs * digits.train.num_batches(batch, drop_last=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for epoch in range(epochs):
        for images, labels in digits.train.batches(batch, epoch=epoch, shuffle=True, augment=True, drop_last=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.inference_mode():
        right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in digits.test.batches(360))
    assert right > 0.97 * len(digits.test)
