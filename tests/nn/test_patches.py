"""Images as rows of patches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from toys import normal

from ebt.nn import PatchEmbedding, fixed_positions, patchify, unpatchify

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))


@given(SIZES)
def test_patches_are_cut_in_reading_order(size: tuple[int, int, int, int]) -> None:
    channels, rows, columns, patch = size
    image = normal(2, channels, rows * patch, columns * patch)
    patches = patchify(image, patch)
    assert patches.shape == (2, rows * columns, channels * patch * patch)
    for i in range(rows):
        for j in range(columns):
            cut = image[:, :, i * patch : (i + 1) * patch, j * patch : (j + 1) * patch]
            assert torch.equal(patches[:, i * columns + j], cut.flatten(1))


@given(SIZES)
def test_patches_of_rows_columns_and_channels_make_an_image(size: tuple[int, int, int, int]) -> None:
    channels, rows, columns, patch = size
    image = normal(2, channels, rows * patch, columns * patch)
    by_channel = patchify(image, patch).unflatten(-1, (channels, patch, patch))
    assert torch.equal(unpatchify(by_channel.permute(0, 1, 3, 4, 2).flatten(2), patch, rows, columns), image)


def test_the_embedding_is_a_convolution_with_a_stride() -> None:
    embedding, image = PatchEmbedding(3, 16, 4, 8), normal(2, 3, 16, 16)
    weight = embedding.projection.weight.view(8, 3, 4, 4)
    expected = F.conv2d(image, weight, embedding.projection.bias, stride=4).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(image), expected)


def test_positions_tell_row_and_column() -> None:
    positions = fixed_positions(3, 5, 16)
    assert positions.shape == (15, 16)
    column, row = positions.view(3, 5, 2, 8).unbind(2)
    assert torch.equal(column, column[:1].expand_as(column))
    assert torch.equal(row, row[:, :1].expand_as(row))
    assert len(positions.unique(dim=0)) == 15
    torch.testing.assert_close(column[0, 3, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(row[2, 0, 4], torch.tensor(2.0).cos())


def test_positions_are_saved_and_serve_other_sizes() -> None:
    embedding = PatchEmbedding(1, 16, 4, 8)
    assert "positions" in embedding.state_dict()
    assert embedding.places(normal(2, 1, 16, 16)) is embedding.positions
    assert torch.equal(embedding.places(normal(2, 1, 8, 24)), fixed_positions(2, 6, 8))
    assert embedding.double().places(normal(2, 1, 8, 24)).dtype == torch.float64


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="10 x 16 pixels cannot be cut into patches of 4 x 4"):
        patchify(normal(1, 3, 10, 16), 4)
    with pytest.raises(ValueError, match="dim 10 must be a multiple of 4"):
        fixed_positions(2, 2, 10)
