"""The description of one engine, `<name>.engine.json` or `<name>.pt2.json`."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flowsr_runtime.bundle.engine_key import EngineKey, canonical
from flowsr_runtime.errors import BundleError, IntegrityError, UsageError

__all__ = ["ENGINE_SCHEMA", "EngineEntry"]

ENGINE_SCHEMA: Final = 1
"""Newest schema of a description that this runtime reads."""


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a store.

    Attributes:
        key: Key of the engine.
        sha256: Digest of the plan.
        size: Size of the plan in bytes.
        facts: Other facts: build seconds, activation memory, driver, ….
    """

    key: EngineKey
    sha256: str
    size: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, key: EngineKey, plan: bytes, facts: Mapping[str, Any]) -> "EngineEntry":
        """Describe a plan.

        Args:
            key: Key of the engine.
            plan: Plan from the builder.
            facts: Other facts, as JSON values.

        Returns:
            The entry; `parse` returns an equal one for its `render`.

        Raises:
            UsageError: If `facts` cannot be written as JSON.
        """
        try:
            known = json.loads(canonical(dict(facts)))
        except (TypeError, ValueError) as error:
            raise UsageError(f"facts cannot be written as JSON: {error}") from error
        return cls(key, hashlib.sha256(plan).hexdigest(), len(plan), known)

    @classmethod
    def parse(cls, text: bytes) -> "EngineEntry":
        """Read a description.

        Args:
            text: Result of `render`.

        Returns:
            The entry.

        Raises:
            IntegrityError: If any byte was changed.
            BundleError: If the schema is newer.
        """
        try:
            raw = json.loads(text)
            content = {name: value for name, value in raw.items() if name != "seal"}
            if raw["seal"] != _checksum(content):
                raise IntegrityError("its checksum is wrong")
            if raw["schema"] > ENGINE_SCHEMA:
                raise BundleError(
                    f"schema {raw['schema']} is newer than this runtime reads "
                    f"({ENGINE_SCHEMA}); upgrade flowsr-lp"
                )
            engine = raw["engine"]
            key = EngineKey.parse(raw["key"])
            entry = cls(key, engine["sha256"], engine["bytes"], raw["facts"])
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"not a description of an engine: {error}") from error
        if entry.render() != text:  # spaces, or a duplicate key
            raise IntegrityError("it differs from its canonical text")
        return entry

    @property
    def name(self) -> str:
        """Path of the plan inside the bundle."""
        return self.key.file_name()

    def render(self) -> bytes:
        """Return the canonical text; its checksum, key "seal", reveals any changed byte."""
        content = {
            "schema": ENGINE_SCHEMA,
            "key": self.key.fields(),
            "engine": {"sha256": self.sha256, "bytes": self.size},
            "facts": dict(self.facts),
        }
        signed = {**content, "seal": _checksum(content)}
        return (json.dumps(signed, indent=1, sort_keys=True) + "\n").encode()


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()
