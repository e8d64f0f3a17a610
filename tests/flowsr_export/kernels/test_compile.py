import pytest

from benchmarks.kernels import CAPABILITIES, SHARED, Variant, resources, variants

pytest.importorskip("triton", reason="triton is not installed")

VARIANTS = {variant.name: variant for variant in variants()}
REGISTERS = 65536  # of a multiprocessor


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_kernel_fits_every_gpu_and_spills_no_register(variant: Variant) -> None:
    compiled = [resources(variant, capability) for capability in CAPABILITIES]
    assert [row.spilled for row in compiled] == [0] * len(CAPABILITIES)
    assert all(row.registers * row.threads <= REGISTERS for row in compiled)
    assert all(row.shared <= SHARED[c] for row, c in zip(compiled, CAPABILITIES, strict=True))
