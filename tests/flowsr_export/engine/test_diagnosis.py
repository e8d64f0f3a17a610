"""TensorRT's messages become a cause, an amount and a remedy."""

import pytest

from flowsr_export.engine.diagnosis import BuildContext, error_from_log, explain_parse
from flowsr_runtime.errors import (
    BackendError,
    FlowsrError,
    IntegrityError,
    LintError,
    MemoryBudgetError,
    ProviderError,
    UsageError,
)

SITUATION = BuildContext("tensorrt 11.4.1.5", 64 << 20, (700 << 20,))
UNLIMITED = BuildContext("tensorrt 11.4.1.5", None, (700 << 20,), "x.bundle.build.log")
NO_KERNEL = (
    "[optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (Could not find any "
    "implementation for node {ForeignNode[a.bias...node_slice_4]}.)"
)
MYELIN = (
    "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([tactic.cpp:1676: "
    "enumerate_tactics] Tactic Selection: no tactics to implement the operation within "
    "workspace limit. Consider increase the allowed workspace size if applicable.)"
)
TOO_MUCH = (
    "Skipping tactic 0 due to insufficient memory on requested size of 1048576000 detected"
)
DEVICE_MEMORY = "Tactic Device request: 5013MB Available: 4000MB. Device memory is insufficient"

# Message, class, exit code, what the line must say.
KNOWN = {
    "workspace of RTX": (MYELIN, MemoryBudgetError, "workspace of 64 MiB"),
    "workspace of TensorRT": (
        NO_KERNEL,
        MemoryBudgetError,
        r"\{ForeignNode\[a.bias...node_slice_4\]\} .* 64 MiB",
    ),
    "memory": (
        "Error Code 2: OutOfMemory (Requested size was 2147483648 bytes.)",
        MemoryBudgetError,
        "2048 MiB.*700 MiB",
    ),
    "missing values": (
        "Error Code 4: API Usage Error (Optimization profile 0 is missing values for shape "
        "input tensor geometry. In validate at network.cpp:4081)",
        UsageError,
        "missing values for shape input tensor geometry",
    ),
    "wrong channels": (
        "Error Code 4: API Usage Error (Dimension mismatch for tensor input and profile 0. At "
        "dimension axis 1, profile has min=4, opt=4, max=4 but tensor has 3.)",
        UsageError,
        "profile has min=4, opt=4, max=4 but tensor has 3",
    ),
    "no driver": (
        "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is insufficient)",
        ProviderError,
        "tensorrt 11.4.1.5 finds no CUDA device",
    ),
    "no device": (
        "CUDA initialization failure with error: 100",
        ProviderError,
        "finds no CUDA device",
    ),
    "old GPU": (
        "Error Code 9: API Usage Error (Target GPU SM 61 is not supported by this release)",
        ProviderError,
        "does not support this GPU, or not this precision on it: Target GPU SM 61 is not supp",
    ),
    "bfloat16 of Turing": (
        "Error Code 1: Myelin ([pass.cpp:1500: run_passes] Cannot compile for target(s) sm75, "
        "because the model contains HW-specific datatypes: b16. In compileGraph at x.cpp:2012)",
        ProviderError,
        "HW-specific datatypes: b16",
    ),
    "float32 of Turing": (
        "Error Code 1: Myelin ([pass.cpp:337: check_turing_op_compatibility] Cannot compile "
        "operation 'node_matmul' for Turing (SM75): FP32 GEMM is not supported. In compileGra)",
        ProviderError,
        "Cannot compile operation 'node_matmul' for Turing .*: FP32 GEMM is not supported",
    ),
    "lean runtime": (
        "Error Code 6: API Usage Error (Unable to load library: libnvinfer_lean.so.1: cannot)",
        BackendError,
        "libnvinfer_lean.so.1",
    ),
    "other version": (
        "Version tag does not match. Note: Current Version: 240, Serialized Engine Version: 1)",
        IntegrityError,
        "engine is of another version than tensorrt 11.4.1.5: .* build it again",
    ),
    "other GPU": (
        "The engine plan file is generated on an incompatible device, expecting compute 8.9 "
        "got compute 8.6, please rebuild.",
        IntegrityError,
        "engine was built for another GPU: .* expecting compute 8.9 got compute 8.6; build it",
    ),
    "anything else": (
        "Error Code 2: Internal Error (Assertion enginePtr != nullptr failed.)",
        FlowsrError,
        "cannot build: Error Code 2: Internal Error",
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_a_message_becomes_one_line_of_its_kind(case: str) -> None:
    message, kind, line = KNOWN[case]
    error = error_from_log([message], [], SITUATION)
    assert type(error) is kind
    with pytest.raises(kind, match=line):
        raise error


def test_the_cause_is_found_among_what_follows_from_it() -> None:
    error = error_from_log(["Building engine failed", MYELIN, NO_KERNEL], [], SITUATION)
    assert isinstance(error, MemoryBudgetError)


@pytest.mark.parametrize(("warning", "figure"), [(TOO_MUCH, 1000), (DEVICE_MEMORY, 5013)])
def test_the_figure_comes_from_the_warnings(warning: str, figure: int) -> None:
    error = error_from_log([NO_KERNEL], [warning], UNLIMITED)
    assert isinstance(error, MemoryBudgetError)
    assert f"fits in the GPU's memory, which needs {figure} MiB" in str(error)


def test_without_a_sign_of_memory_a_missing_kernel_is_a_gap_of_the_library() -> None:
    error = error_from_log([NO_KERNEL], ["a harmless warning"], UNLIMITED)
    assert not isinstance(error, MemoryBudgetError)
    assert "has no kernel for {ForeignNode[a.bias...node_slice_4]}" in str(error)


def test_a_log_is_named() -> None:
    assert str(error_from_log([], [], UNLIMITED)).endswith(
        "gave no reason; log: x.bundle.build.log"
    )


def test_a_long_message_is_cut() -> None:
    assert len(str(error_from_log(["x " * 5000], [], SITUATION))) < 300


def test_a_node_that_cannot_be_imported_is_named_with_its_op() -> None:
    problem = {"node": "node_nonzero", "op": "NonZero", "reason": "Assertion\nfailed: no"}
    error = explain_parse([problem], "tensorrt 10.13.3.9")
    assert isinstance(error, LintError)
    assert "cannot import NonZero node_nonzero: Assertion failed: no; export" in str(error)


def test_of_many_nodes_three_are_named() -> None:
    problems = [{"node": f"n{i}", "op": "NonZero", "reason": "no"} for i in range(5)]
    text = str(explain_parse(problems, "tensorrt 10.13.3.9"))
    assert "n2: no and 2 more" in text
    assert "n3" not in text
