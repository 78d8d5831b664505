"""Quantizers: their grids, their gradients in closed form, their calibration."""

from __future__ import annotations

import math

import pytest
import torch

from autoshrink.fake_quantize import ActivationQuantizer, WeightQuantizer, keep_steps_near, weight_range


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -127, 127), (6, -32, 31), (4, -8, 7), (2, -2, 1)])
def test_range_of_a_weight(bits: int, low: int, high: int) -> None:
    assert weight_range(bits) == (low, high)


class TestWeights:
    def test_a_weight_on_the_grid_stays_what_it_is(self) -> None:
        integers = torch.tensor([[-127.0, 3.0, 0.0], [5.0, 127.0, -64.0]])
        weight = integers * torch.tensor([[0.01], [0.3]])
        quantizer = WeightQuantizer(8, 2)
        quantizer.initialise(weight)
        torch.testing.assert_close(quantizer.scale.detach(), torch.tensor([0.01, 0.3]))
        torch.testing.assert_close(quantizer(weight), weight)

    @pytest.mark.parametrize("bits", [8, 6, 5, 4, 3, 2])
    def test_values_are_whole_steps_within_the_range(self, bits: int) -> None:
        weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        quantizer = WeightQuantizer(bits, 4)
        quantizer.initialise(weight)
        steps = quantizer(weight).detach() / quantizer.scale.detach().view(-1, 1, 1, 1)
        low, high = weight_range(bits)
        torch.testing.assert_close(steps, steps.round())
        assert low <= steps.round().min() and steps.round().max() <= high
        assert len(steps.round().unique()) <= 2**bits

    def test_step_of_least_error_is_below_the_largest_magnitude_at_few_bits(self) -> None:
        weight = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
        quantizer = WeightQuantizer(3, None)
        quantizer.initialise(weight)
        chosen = (quantizer(weight) - weight).square().mean()
        quantizer.scale.data.fill_(float(weight.abs().max()) / 3)
        assert chosen < 0.6 * (quantizer(weight) - weight).square().mean()

    def test_gradients_are_those_of_learned_step_size_quantization(self) -> None:
        # Range -8 to 7, step 0.5: 1.3 is 2.6 steps and rounds to 3; 9 is 18 steps, over the range; -6 is -12, under it.
        weight = torch.tensor([[1.3, 9.0, -6.0]], requires_grad=True)
        quantizer = WeightQuantizer(4, 1)
        quantizer.scale.data.fill_(0.5)
        out = quantizer(weight)
        torch.testing.assert_close(out, torch.tensor([[1.5, 3.5, -4.0]]))
        out.backward(torch.tensor([[1.0, 10.0, 100.0]]))
        assert weight.grad is not None and weight.grad.tolist() == [[1.0, 0.0, 0.0]]
        by_hand = (1.0 * (3 - 2.6) + 10.0 * 7 + 100.0 * -8) / math.sqrt(3 * 7)
        assert quantizer.scale.grad is not None
        assert quantizer.scale.grad.item() == pytest.approx(by_hand, rel=1e-5)

    def test_a_step_that_is_not_learned_gets_no_gradient(self) -> None:
        weight = torch.randn(2, 5, requires_grad=True)
        quantizer = WeightQuantizer(8, 2, learned=False)
        quantizer.initialise(weight)
        quantizer(weight).sum().backward()
        assert quantizer.scale.grad is None
        assert weight.grad is not None


class TestActivations:
    def calibrated(self, values: torch.Tensor, bits: int = 8, signed: bool = False) -> ActivationQuantizer:
        quantizer = ActivationQuantizer(bits, signed)
        quantizer.observe()
        assert quantizer(values) is values
        quantizer.calibrate()
        return quantizer

    def test_positive_values_have_a_zero_point_of_0(self) -> None:
        quantizer = self.calibrated(torch.arange(256) / 100)
        assert quantizer.zero_point.item() == 0
        assert quantizer.scale.item() == pytest.approx(0.01)

    def test_a_range_around_zero_has_its_zero_on_the_grid(self) -> None:
        quantizer = self.calibrated(torch.linspace(-1, 3, 1001))
        assert quantizer.zero_point.item() == 64
        assert quantizer(torch.zeros(3)).tolist() == [0, 0, 0]

    def test_signed_is_symmetric(self) -> None:
        quantizer = self.calibrated(torch.linspace(-1, 2, 1001), signed=True)
        assert quantizer.zero_point.item() == 0
        assert quantizer.zero_point.dtype == torch.int8
        assert quantizer.scale.item() == pytest.approx(2 / 127, rel=0.03)

    @pytest.mark.parametrize("bits", [8, 6, 4])
    def test_takes_no_more_values_than_its_bits_tell_apart(self, bits: int) -> None:
        values = torch.linspace(-1, 3, 5001)
        out = self.calibrated(values, bits)(values)
        assert len(out.detach().unique()) <= 2**bits
        torch.testing.assert_close(out, values, atol=4 / (2**bits - 1), rtol=0)

    def test_an_outlier_is_cut_off_at_few_bits(self) -> None:
        values = torch.cat((torch.rand(20_000, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0])))
        assert self.calibrated(values, 4).scale.item() < 2 / 15

    def test_a_constant_zero_has_a_grid(self) -> None:
        assert self.calibrated(torch.zeros(10))(torch.zeros(2)).tolist() == [0, 0]

    def test_gradients_in_closed_form(self) -> None:
        quantizer = self.calibrated(torch.arange(256) / 255 * 2.55)
        x = torch.tensor([[0.014, 5.0, -1.0]], requires_grad=True)
        quantizer(x).backward(torch.tensor([[1.0, 10.0, 100.0]]))
        assert x.grad is not None and x.grad.tolist() == [[1.0, 0.0, 0.0]]
        by_hand = (1.0 * (1 - 1.4) + 10.0 * 255 + 100.0 * 0) / math.sqrt(3 * 255)
        assert quantizer.scale.grad is not None
        assert quantizer.scale.grad.item() == pytest.approx(by_hand, rel=1e-3)

    def test_works_in_bfloat16(self) -> None:
        quantizer = self.calibrated(torch.linspace(0, 1, 1000))
        x = torch.rand(4, 4, dtype=torch.bfloat16, requires_grad=True)
        out = quantizer(x)
        out.sum().backward()
        assert out.dtype == torch.bfloat16
        assert x.grad is not None and x.grad.dtype == torch.bfloat16


def test_steps_stay_near_the_calibrated_ones() -> None:
    quantizer = WeightQuantizer(8, 3)
    quantizer.initialise(torch.tensor([[127.0], [127.0], [127.0]]))
    quantizer.scale.data.copy_(torch.tensor([-0.5, 1.1, 7.0]))
    keep_steps_near(quantizer)
    assert quantizer.scale.tolist() == pytest.approx([0.5, 1.1, 2.0])


def test_a_channel_of_zeros_has_a_step_in_which_a_bias_fits() -> None:
    quantizer = WeightQuantizer(8, 2)
    quantizer.initialise(torch.tensor([[0.0, 0.0], [0.5, -1.0]]))
    assert quantizer.scale.min() > 1e-7
    assert quantizer(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]
