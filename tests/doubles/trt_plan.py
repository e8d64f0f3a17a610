"""A plan of the double: what was built, for which devices, with the ONNX file inside."""

import json
import zlib
from dataclasses import asdict, dataclass, field

__all__ = ["Plan"]

MAGIC = b"double-of-a-plan"


@dataclass
class Plan:
    """What an engine knows of itself.

    Attributes:
        flavour: "tensorrt" or "tensorrt_rtx".
        version: Version of the library that built it.
        capabilities: Devices, such as ["8.9"]; empty for 8.0 and above.
        profiles: [min, opt, max] by input, for each profile.
        shape_inputs: Inputs whose values decide shapes; they live on the host.
        scratch: Activation memory of each profile in bytes.
        version_compatible: Whether later versions load it; it holds host code then.
        strongly_typed: Whether the types are those of the ONNX file.
        detailed: Whether the inspector tells of each layer.
        data_dependent: Whether output shapes are known only when it has run.
        user_allocation: Whether it was built for stream capture (RTX).
        onnx: The ONNX file, which the double runs on the CPU.
    """

    flavour: str
    version: str
    capabilities: list[str]
    profiles: list[dict[str, list[list[int]]]]
    shape_inputs: list[str]
    scratch: list[int]
    version_compatible: bool = False
    strongly_typed: bool = True
    detailed: bool = False
    data_dependent: bool = False
    user_allocation: bool = False
    onnx: bytes = field(default=b"", repr=False)

    def pack(self) -> bytes:
        """Return the bytes that a builder would give."""
        facts = asdict(self)
        del facts["onnx"]
        head = json.dumps(facts).encode()
        body = len(head).to_bytes(4, "little") + head + self.onnx
        return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body

    @classmethod
    def unpack(cls, data: bytes) -> "Plan | None":
        """Return what a plan holds, None if it is no plan.

        Raises:
            AssertionError: If a byte was changed: a real library would run it as native code.
        """
        data = bytes(data)
        if not data.startswith(MAGIC):
            return None
        check, body = data[len(MAGIC) :][:4], data[len(MAGIC) + 4 :]
        assert zlib.crc32(body).to_bytes(4, "little") == check, (
            "damaged bytes were deserialised"
        )
        size = int.from_bytes(body[:4], "little")
        return cls(**json.loads(body[4 : 4 + size]), onnx=body[4 + size :])
