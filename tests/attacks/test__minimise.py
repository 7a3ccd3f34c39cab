import pytest
import torch

from mixbit.attacks._minimise import Adam, Constants, CutSpace, Nearest, TanhSpace, is_found


def test_adam_is_torchs_whichever_rows_move() -> None:
    random = torch.Generator().manual_seed(0)
    mine = torch.randn(3, 5, generator=random)
    adam = Adam(mine)
    theirs = [row.clone().requires_grad_() for row in mine]
    torchs = [torch.optim.Adam([row], lr=0.1) for row in theirs]
    for rows in ([0, 1, 2], [0, 2], [0, 1, 2], [1], [0, 1, 2]):
        gradient = torch.randn(len(rows), 5, generator=random)
        mine[rows] = mine[rows] - 0.1 * adam.direction(torch.tensor(rows), gradient)
        for row, one in zip(rows, gradient, strict=True):
            theirs[row].grad = one
            torchs[row].step()
    torch.testing.assert_close(mine, torch.stack([row.detach() for row in theirs]))


def test_adam_begins_anew_where_it_forgets() -> None:
    gradients = torch.tensor([[[3.0], [3.0]], [[-1.0], [-1.0]]])
    adam, rows = Adam(gradients[0]), torch.arange(2)
    adam.direction(rows, gradients[0])
    adam.forget(rows[1:])
    direction = adam.direction(rows, gradients[1]).flatten().tolist()
    assert direction[0] > 0 and direction[1] == pytest.approx(-1.0)


def test_constants_come_to_the_least_that_is_enough() -> None:
    enough = torch.tensor([0.003, 0.5, 7.0, 1234.0])
    constants = Constants(0.01, 4)
    for _ in range(40):
        constants.narrow(constants.c >= enough)
    torch.testing.assert_close(constants.c, enough)


def test_constants_are_open_until_they_are_known_to_a_part() -> None:
    constants = Constants(8.0, 3)
    assert constants.open(0.9).tolist() == [0, 1, 2]
    for enough in ([True, False, True], [True, True, False], [False, True, True]):  # 2 to 4, 8 to 44, 4 to 6
        constants.narrow(torch.tensor(enough))
    assert constants.c.tolist() == [3.0, 26.0, 5.0]
    assert (
        constants.open(0.4).tolist() == [0, 1]
        and constants.open(0.6).tolist() == [1]
        and constants.open(0).tolist() == [0, 1, 2]
    )


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 5.0)])
def test_cut_space_moves_by_half_widths_and_stays_within(low: float, high: float) -> None:
    space, x = CutSpace(low, high), torch.tensor([low, (low + high) / 2, high])
    assert torch.equal(space.leave(space.enter(x)), x)
    moved = space.leave(space.move(space.enter(x), torch.tensor([0.5, 0.5, -0.5])))
    half = (high - low) / 2
    torch.testing.assert_close(moved, torch.tensor([low, low + half / 2, high]))
    assert float(space.slope(x)) == half


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 5.0)])
def test_tanh_space_leads_back_and_has_torchs_slope(low: float, high: float) -> None:
    space = TanhSpace(low, high)
    x = torch.linspace(low, high, 9)
    torch.testing.assert_close(space.leave(space.enter(x)), x, rtol=0, atol=1e-6 * (high - low))
    assert bool(torch.isfinite(space.enter(x)).all())
    w = torch.linspace(-4, 4, 9).requires_grad_()
    (slope,) = torch.autograd.grad(space.leave(w).sum(), w)
    torch.testing.assert_close(space.slope(w.detach()), slope)


def test_nearest_keeps_what_is_adversarial_and_nearer() -> None:
    nearest = Nearest(torch.zeros(3, 1))
    rows, points = torch.tensor([2, 0]), torch.tensor([[2.0], [3.0]])
    assert nearest.offer(rows, points, torch.tensor([2.0, 3.0]), torch.tensor([True, False])).tolist() == [True, False]
    assert nearest.points.flatten().tolist() == [0.0, 0.0, 2.0] and nearest.distances.tolist()[2] == 2.0
    assert not nearest.offer(rows[:1], points[:1] + 1, torch.tensor([2.5]), torch.tensor([True])).any()
    assert nearest.points.flatten().tolist() == [0.0, 0.0, 2.0]


def test_an_image_is_fooled_when_another_class_wins_by_the_confidence() -> None:
    logits, y = torch.tensor([[1.0, 2.0], [1.0, 1.4], [2.0, 1.0]]), torch.tensor([0, 0, 0])
    assert is_found(logits, y, 0.5).tolist() == [True, False, False]
    assert is_found(logits, y, 0.0).tolist() == [True, True, False]
    assert not is_found(torch.ones(1, 2), y[:1], 0.0).any()  # among equals the first one wins
