"""Passes that no hook can see are reported to whoever listens."""

from __future__ import annotations

from mixbit._effort import count_backward, count_forward, listen


def test_nobody_listens() -> None:
    count_forward(3)
    with listen() as counts:
        pass
    count_backward(3)
    assert (counts.forward_images, counts.backward_images) == (0, 0)


def test_the_innermost_listener_gets_the_report() -> None:
    with listen() as outer:
        count_forward(1)
        with listen() as inner:
            count_forward(2)
            count_backward(4)
        count_forward(8)
    assert (outer.forward_images, outer.backward_images) == (9, 0)
    assert (inner.forward_images, inner.backward_images) == (2, 4)
