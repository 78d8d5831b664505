from __future__ import annotations

import numpy as np
import pytest
import torch

from autoshrink.techniques.low_rank import (
    Spectrum,
    row_spectrum,
    spatial_factors,
    spatial_matrix,
    spectrum,
    svd_factors,
    tucker_factors,
    tucker_spectra,
)

RANDOM = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=RANDOM)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def tucker_product(inner: torch.Tensor | None, core: torch.Tensor, outer: torch.Tensor | None) -> torch.Tensor:
    weight = core if inner is None else torch.einsum("or...,ri->oi...", core, inner)
    return weight if outer is None else torch.einsum("ri...,or->oi...", weight, outer)


class TestSpectrum:
    def test_energies_are_the_squared_singular_values(self) -> None:
        matrix = random(12, 30)
        expected = torch.linalg.svdvals(matrix.double()) ** 2
        for given in (matrix, matrix.T):
            torch.testing.assert_close(spectrum(given).energies, expected)

    def test_least_rank_of_known_energies(self) -> None:
        found = spectrum(torch.diag(torch.tensor([1.0, 3.0, 0.0, 2.0])))
        torch.testing.assert_close(found.energies, torch.tensor([9.0, 4.0, 1.0, 0.0]).double())
        shares = {0.0: 1, 0.5: 1, 9 / 14: 1, 0.65: 2, 13 / 14: 2, 0.93: 3, 1.0: 3}
        assert {share: found.least_rank(share) for share in shares} == shares
        assert [found.lost(rank) for rank in range(5)] == pytest.approx([1, 5 / 14, 1 / 14, 0, 0])

    def test_of_a_zero_matrix(self) -> None:
        found = spectrum(torch.zeros(3, 5))
        assert (found.least_rank(0.9), found.lost(1)) == (1, 0.0)

    def test_rows_may_be_more_than_the_rank(self) -> None:
        found = row_spectrum(random(9, 4))
        assert found.vectors.shape == (9, 9)
        assert found.least_rank(1.0) == 4


class TestSvd:
    @pytest.mark.parametrize("shape", [(20, 20), (8, 30), (30, 8)])
    def test_full_rank_is_exact(self, shape: tuple[int, int]) -> None:
        matrix = random(*shape)
        up, down = svd_factors(matrix, min(shape))
        assert (up.shape, down.shape) == ((shape[0], min(shape)), (min(shape), shape[1]))
        assert relative(up @ down, matrix) < 1e-5

    @pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
    def test_a_matrix_of_rank_five_is_recovered_at_rank_five(self, shape: tuple[int, int]) -> None:
        matrix = random(shape[0], 5) @ random(5, shape[1])
        assert spectrum(matrix).least_rank(0.999999) == 5
        up, down = svd_factors(matrix, 5)
        assert relative(up @ down, matrix) < 1e-5
        up, down = svd_factors(matrix, 4)
        assert relative(up @ down, matrix) > 0.05

    @pytest.mark.parametrize("rank", [1, 7, 15])
    def test_error_is_the_energy_that_was_dropped(self, rank: int) -> None:
        matrix = random(16, 28).double()
        found = spectrum(matrix)
        up, down = svd_factors(matrix, rank, found)
        error = float((up @ down - matrix).square().sum())
        assert error == pytest.approx(float(found.energies[rank:].sum()))
        assert error == pytest.approx(found.lost(rank) * float(matrix.square().sum()))

    def test_singular_values_are_split_evenly(self) -> None:
        matrix = random(10, 18).double()
        up, down = svd_factors(matrix, 6)
        values = torch.linalg.svdvals(matrix)[:6]
        torch.testing.assert_close(up.norm(dim=0), values.sqrt())
        torch.testing.assert_close(down.norm(dim=1), values.sqrt())

    def test_directions_without_energy_are_zero_and_not_nan(self) -> None:
        up, down = svd_factors(torch.diag(torch.tensor([2.0, 0.0, 0.0])), 2)
        torch.testing.assert_close(up @ down, torch.diag(torch.tensor([2.0, 0.0, 0.0])))
        up, down = svd_factors(torch.zeros(4, 6), 3)
        assert not up.any()
        assert not down.any()

    def test_keeps_the_dtype(self) -> None:
        up, down = svd_factors(random(6, 9).half(), 6)
        assert up.dtype is down.dtype is torch.float16


class TestTucker:
    @pytest.mark.parametrize("shape", [(12, 8, 3, 3), (8, 12, 5), (6, 9, 2, 3, 3)])
    def test_full_rank_is_the_core_alone(self, shape: tuple[int, ...]) -> None:
        weight = random(*shape)
        inner, core, outer = tucker_factors(weight, (shape[1], shape[0]))
        assert inner is None
        assert outer is None
        torch.testing.assert_close(core, weight)

    def test_full_rank_on_one_side_is_exact_there(self) -> None:
        # Sixteen output channels, of which only five are independent.
        weight = torch.einsum("or,rihw->oihw", random(16, 5), random(5, 10, 3, 3))
        inner, core, outer = tucker_factors(weight, (10, 5))
        assert inner is None
        assert outer is not None
        assert relative(tucker_product(inner, core, outer), weight) < 1e-5

    def test_low_ranks_are_recovered(self) -> None:
        core = random(4, 3, 3, 3)
        weight = torch.einsum("abhw,oa,bi->oihw", core, random(20, 4), random(3, 14))
        spectra = tucker_spectra(weight)
        assert [s.least_rank(0.999999) for s in spectra] == [3, 4]
        found = tucker_factors(weight, (3, 4), spectra)
        assert [factor.shape if factor is not None else None for factor in found] == [(3, 14), (4, 3, 3, 3), (20, 4)]
        assert relative(tucker_product(*found), weight) < 1e-5

    def test_error_is_within_the_bound_of_hosvd_and_sweeps_lower_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weight = random(16, 12, 3, 3).double()
        spectra = tucker_spectra(weight)
        error = relative(tucker_product(*tucker_factors(weight, (5, 6), spectra)), weight) ** 2
        bound = spectra[0].lost(5) + spectra[1].lost(6)
        assert max(spectra[0].lost(5), spectra[1].lost(6)) < error < bound
        monkeypatch.setattr("autoshrink.techniques.low_rank.SWEEPS", 0)
        hosvd = relative(tucker_product(*tucker_factors(weight, (5, 6), spectra)), weight) ** 2
        assert error < hosvd < bound

    def test_factors_are_orthonormal(self) -> None:
        inner, _, outer = tucker_factors(random(16, 12, 3, 3).double(), (5, 6))
        assert inner is not None
        assert outer is not None
        torch.testing.assert_close(inner @ inner.T, torch.eye(5).double())
        torch.testing.assert_close(outer.T @ outer, torch.eye(6).double())


class TestSpatial:
    @pytest.mark.parametrize("shape", [(8, 6, 3, 3), (4, 10, 5, 2), (6, 4, 1, 3)])
    def test_full_rank_is_exact(self, shape: tuple[int, int, int, int]) -> None:
        weight = random(*shape)
        rank = min(spatial_matrix(weight).shape)
        assert rank == min(shape[0] * shape[3], shape[1] * shape[2])
        columns, rows = spatial_factors(weight, rank)
        assert columns.shape == (rank, shape[1], shape[2], 1)
        assert rows.shape == (shape[0], rank, 1, shape[3])
        assert relative(torch.einsum("rihx,orxw->oihw", columns, rows), weight) < 1e-5

    def test_a_separable_kernel_has_rank_one(self) -> None:
        sobel = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])).view(1, 1, 3, 3)
        columns, rows = spatial_factors(sobel, 1)
        torch.testing.assert_close(torch.einsum("rihx,orxw->oihw", columns, rows), sobel)

    def test_error_is_the_energy_that_was_dropped(self) -> None:
        weight = random(6, 5, 3, 3).double()
        found: Spectrum = spectrum(spatial_matrix(weight))
        columns, rows = spatial_factors(weight, 7, found)
        error = float((torch.einsum("rihx,orxw->oihw", columns, rows) - weight).square().sum())
        assert error == pytest.approx(float(found.energies[7:].sum()))


def test_one_kernel_gives_one_result() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(16, 12, 3, 3)))
    first, second = (tucker_factors(weight, (5, 6)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None)
