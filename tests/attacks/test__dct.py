import pytest
import torch
from scipy.fft import idctn

from mixbit.attacks._dct import check_sub_dim, cosines, noise
from mixbit.attacks._streams import Streams
from mixbit.errors import MixbitError


def test_noise_is_the_inverse_transform_of_its_lowest_frequencies() -> None:
    rows = torch.tensor([1, 0])
    found = noise(Streams(0, "a", [5, 6]), rows, (3, 8, 6), 4, count=2)
    drawn = Streams(0, "a", [5, 6]).normal(rows, (2, 3, 4, 4))
    whole = torch.zeros(2, 2, 3, 8, 6)
    whole[..., :4, :4] = drawn * 48**0.5 / 4
    torch.testing.assert_close(found, torch.from_numpy(idctn(whole.numpy(), axes=(3, 4), norm="ortho")))
    many = noise(Streams(0, "a", [5]), torch.tensor([0]), (3, 8, 6), 2, count=500)
    assert float(many.square().mean()) == pytest.approx(1, rel=0.05)


def test_all_frequencies_span_all_images_and_none_is_a_number_for_each_pixel() -> None:
    torch.testing.assert_close(cosines(7, 7) @ cosines(7, 7).T, torch.eye(7), rtol=0, atol=1e-6)
    rows = torch.arange(2)
    plain = noise(Streams(0, "a", [5, 6]), rows, (2, 3), None, count=4)
    assert torch.equal(plain, Streams(0, "a", [5, 6]).normal(rows, (4, 2, 3)))


def test_a_subspace_is_not_larger_than_the_image() -> None:
    check_sub_dim(3, torch.zeros(2, 1, 3, 4), "it")
    check_sub_dim(None, torch.zeros(2, 5), "it")
    with pytest.raises(MixbitError, match="it: sub_dim=4 is illegal for images of 3 by 4 pixels.*from 1 to 3"):
        check_sub_dim(4, torch.zeros(2, 1, 3, 4), "it")
    with pytest.raises(MixbitError, match=r"shape \(2, 5\).*sub_dim=null"):
        check_sub_dim(1, torch.zeros(2, 5), "it")
