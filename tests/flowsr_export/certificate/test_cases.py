"""The cases of a certificate."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from flowsr_export.certificate.cases import PICTURES, CertificateCase, case_list, picture_of
from flowsr_export.deployment.families import deployment_of
from flowsr_export.inputs.cases import Case
from flowsr_runtime import Bundle, embedded_bundle
from flowsr_runtime.bundle.manifest import Manifest
from tests.flowsr_export.conftest import fourfold_manifest
from tests.flowsr_export.networks import small


def manifest() -> Manifest:
    return Bundle.open(embedded_bundle()).manifest


def fixed(scale: str, *, whole_only: bool) -> Manifest:
    own = manifest()
    tiling = replace(own.tiling, whole_only=whole_only)
    return replace(own, scale=Fraction(scale), tiling=tiling)


def test_the_quick_plan_is_a_part_of_the_full_one() -> None:
    quick, full = case_list(manifest(), quick=True), case_list(manifest())
    assert set(quick) < set(full)
    assert any(t.tiled for t in quick)
    assert {t.picture for t in full} == set(PICTURES)


def test_a_tiled_picture_is_wider_than_what_a_tile_sees() -> None:
    halo = deployment_of(small()).exact_halo()
    own = manifest()
    tiling = replace(own.tiling, exact=halo)
    for case in (t for t in case_list(replace(own, tiling=tiling)) if t.tiled):
        reach = halo.pixels + halo.patches * halo.patch / float(case.scale)
        assert min(case.sizes.lr) > 2 * reach


@pytest.mark.parametrize("whole_only", [True, False])
def test_a_graph_of_one_scale_is_compared_at_it_in_tiles_if_it_can(whole_only: bool) -> None:
    cases = case_list(fixed("3", whole_only=whole_only))
    assert {t.scale for t in cases} == {"3"}
    assert all(3 * n == m for t in cases for n, m in zip(t.sizes.lr, t.sizes.size, strict=True))
    assert any(t.tiled for t in cases) != whole_only


def test_a_graph_whose_window_is_its_tile_is_cut_along_a_strip() -> None:
    cases = case_list(Manifest.parse({**fourfold_manifest(), "files": {}}))
    (tiled,) = (t for t in cases if t.tiled)
    assert tiled.sizes.lr == (32, 144)


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_hold_eight_bit_levels(name: str) -> None:
    rgb = picture_of(CertificateCase(name, Case((5, 6), (10, 12), batch=2), "2", seed=3))
    assert rgb.shape == (2, 3, 5, 6)
    assert rgb.dtype == np.float32
    assert np.array_equal(np.rint(rgb * 255) / np.float32(255), rgb)
    assert 0 <= rgb.min() <= rgb.max() <= 1


@pytest.mark.parametrize("name", ["noise", "noisy photographs"])
def test_noise_is_that_of_its_seed(name: str) -> None:
    case = Case((5, 6), (10, 12))
    first, again, other = (
        picture_of(CertificateCase(name, case, "2", seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_frame_is_bright_on_every_border() -> None:
    rgb = picture_of(CertificateCase("frame", Case((4, 5), (8, 10)), "2"))
    assert (rgb > 0.5).sum() == 3 * (2 * 4 + 2 * 5 - 4)
    assert rgb[..., 1:-1, 1:-1].max() < 0.5
