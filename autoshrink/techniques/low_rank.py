"""Low-rank decompositions of weights: truncated SVD, Tucker-2 on the channels, the spatial split of a kernel.

All of them go through eigenvectors of Gram matrices in float64, on the smaller side: several times faster than an SVD,
and orthonormal to its last bits, so that the product of the factors is exact at full rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SWEEPS = 3
"""Of higher-order orthogonal iteration; after the second the error hardly falls."""
ROUNDING = 1e-12
"""Relative error up to which a sum of energies counts as reached."""


@dataclass(frozen=True)
class Spectrum:
    """Of a matrix [n, m]: how much of it lies along each direction of one of its sides.

    Attributes:
        energies: squared singular values, descending, float64 [k]; they sum up to the squared Frobenius norm.
        vectors: the singular vectors of that side, orthonormal columns in the same order, float64 [k, k].
    """

    energies: torch.Tensor
    vectors: torch.Tensor

    def least_rank(self, share: float) -> int:
        """The least number of directions whose energies are `share` of all, at least 1."""
        kept = self.energies.cumsum(0)
        wanted = share * kept[-1] * (1 - ROUNDING)
        return min(int((kept < wanted).sum()) + 1, len(kept))

    def lost(self, rank: int) -> float:
        """The share of the energy, 0 to 1, that a projection on the first `rank` directions loses."""
        total = float(self.energies.sum())
        return float(self.energies[rank:].sum()) / total if total else 0.0


def row_spectrum(matrix: torch.Tensor) -> Spectrum:
    """Along the rows' side of a matrix [n, m]: n directions, more than its rank when m is less than n."""
    wide = matrix.detach().double()
    energies, vectors = torch.linalg.eigh(wide @ wide.T)
    return Spectrum(energies.flip(0).clamp(min=0), vectors.flip(1))


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """Along the shorter side of a matrix [n, m]: the rows' when n <= m, else the columns'."""
    return row_spectrum(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T)


def svd_factors(matrix: torch.Tensor, rank: int, of: Spectrum | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The truncated SVD (Eckart & Young 1936) as two factors that share the singular values evenly.

    Args:
        matrix: [n, m], of any floating-point dtype.
        rank: r, 1 to the smaller of n and m.
        of: its `spectrum`, where that is known.

    Returns:
        `up` [n, r] and `down` [r, m] of the matrix's dtype, `up @ down` nearest to the matrix in the Frobenius norm.
    """
    wide = matrix.detach().double()
    vectors = (of or spectrum(matrix)).vectors[:, :rank]
    rows_are_shorter = matrix.shape[0] <= matrix.shape[1]
    # Projected on the vectors rather than built from singular values: exact however small those are.
    other = vectors.T @ (wide if rows_are_shorter else wide.T)
    # The norm of each row is its singular value; one that is zero has rows of zeros on both sides.
    scale = other.norm(dim=1).sqrt()
    here = vectors * scale
    there = other / torch.where(scale > 0, scale, 1.0)[:, None]
    up, down = (here, there) if rows_are_shorter else (there.T, here.T)
    return up.to(matrix.dtype).contiguous(), down.to(matrix.dtype).contiguous()


def tucker_spectra(weight: torch.Tensor) -> tuple[Spectrum, Spectrum]:
    """Along the input and the output channels of a kernel [out, in, ...]."""
    return row_spectrum(weight.transpose(0, 1).flatten(1)), row_spectrum(weight.flatten(1))


def tucker_factors(
    weight: torch.Tensor, ranks: tuple[int, int], of: tuple[Spectrum, Spectrum] | None = None
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
    """Tucker-2 on the channel modes (Kim et al. 2016, section 3.1), by HOSVD and `SWEEPS` of HOOI.

    De Lathauwer et al. 2000 describe both. A mode at its full rank is left in the core: it has no factor.

    Args:
        weight: [out, in, ...], of any floating-point dtype.
        ranks: of the input and of the output channels.
        of: its `tucker_spectra`, where they are known.

    Returns:
        The input's factor [r_in, in] or None, the core [r_out, r_in, ...], the output's factor [out, r_out] or None.
    """
    wide = weight.detach().double()
    narrow_in, narrow_out = (rank < size for rank, size in zip(ranks, (weight.shape[1], weight.shape[0]), strict=True))
    inner, outer = (s.vectors[:, :rank] for s, rank in zip(of or tucker_spectra(weight), ranks, strict=True))
    for _ in range(SWEEPS if narrow_in and narrow_out else 0):
        outer = row_spectrum(_on_input(wide, inner).flatten(1)).vectors[:, : ranks[1]]
        inner = row_spectrum(_on_output(wide, outer).transpose(0, 1).flatten(1)).vectors[:, : ranks[0]]
    core = _on_input(wide, inner) if narrow_in else wide
    core = _on_output(core, outer) if narrow_out else core
    dtype = weight.dtype
    return (
        inner.T.to(dtype).contiguous() if narrow_in else None,
        core.to(dtype).contiguous(),
        outer.to(dtype).contiguous() if narrow_out else None,
    )


def spatial_matrix(weight: torch.Tensor) -> torch.Tensor:
    """A kernel [out, in, h, w] as the matrix [out * w, in * h] whose SVD splits it into columns and rows."""
    return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def spatial_factors(weight: torch.Tensor, rank: int, of: Spectrum | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The split of a kernel into one over the height and one over the width (Jaderberg et al. 2014, scheme 2).

    Args:
        weight: [out, in, h, w], of any floating-point dtype.
        rank: r, 1 to the smaller of out * w and in * h.
        of: the `spectrum` of its `spatial_matrix`, where that is known.

    Returns:
        The column kernels [r, in, h, 1], which come first, and the row kernels [out, r, 1, w].
    """
    out, into, height, width = weight.shape
    up, down = svd_factors(spatial_matrix(weight), rank, of)
    rows = up.view(out, width, rank).permute(0, 2, 1)[:, :, None]
    return down.view(rank, into, height, 1), rows.contiguous()


def _on_input(weight: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """[out, in, ...] projected on vectors [in, r]: [out, r, ...]."""
    return torch.einsum("oi...,ir->or...", weight, vectors)


def _on_output(weight: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """[out, in, ...] projected on vectors [out, r]: [r, in, ...]."""
    return torch.einsum("oi...,or->ri...", weight, vectors)
