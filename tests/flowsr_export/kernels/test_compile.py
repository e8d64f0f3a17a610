import pytest

from benchmarks.kernels import CAPABILITIES, SHARED, Variant, resources, variants

pytest.importorskip("triton", reason="triton is not installed")

VARIANTS = {variant.name: variant for variant in variants()}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_kernel_spills_no_register_on_any_gpu(variant: Variant) -> None:
    compiled = [resources(variant, capability) for capability in CAPABILITIES]
    assert [row.spilled for row in compiled] == [0] * len(CAPABILITIES)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_block_fits_the_registers_and_shared_memory_of_every_gpu(variant: Variant) -> None:
    compiled = [resources(variant, capability) for capability in CAPABILITIES]
    assert all(row.registers * row.threads <= 65536 for row in compiled)
    assert all(row.shared <= SHARED[c] for row, c in zip(compiled, CAPABILITIES, strict=True))
