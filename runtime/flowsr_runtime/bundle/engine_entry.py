"""An engine of a bundle as its description says: `<name>.engine.json` beside the plan."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from flowsr_runtime.bundle.engine_key import EngineKey, canonical
from flowsr_runtime.errors import BundleError, IntegrityError, UsageError

__all__ = ["ENGINE_SCHEMA", "EngineEntry"]

ENGINE_SCHEMA: Final = 1
"""Newest schema of `<name>.engine.json` that this runtime reads."""


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a store.

    Attributes:
        key: What it was built of and for.
        sha256: Digest of the plan.
        size: Its bytes.
        facts: What else is known: build seconds, activation memory, driver, ….
    """

    key: EngineKey
    sha256: str
    size: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, key: EngineKey, plan: bytes, facts: Mapping[str, Any]) -> "EngineEntry":
        """Describe a plan.

        Args:
            key: What it was built of and for.
            plan: What the builder gave.
            facts: What else is known, as JSON takes it.

        Returns:
            The entry, equal to the one that `parse` gives back.

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
            text: What `render` gave.

        Returns:
            The entry.

        Raises:
            IntegrityError: If a single byte was changed.
            BundleError: If the schema is newer.
        """
        try:
            raw = json.loads(text)
            content = {name: value for name, value in raw.items() if name != "seal"}
            if raw["seal"] != _seal(content):
                raise IntegrityError("the seal is broken")
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
            raise IntegrityError(f"no description of an engine: {error}") from error
        if entry.render() != text:  # spaces, or a key that is there twice
            raise IntegrityError("not as it was written")
        return entry

    @property
    def name(self) -> str:
        """Path of the plan inside the bundle."""
        return self.key.file_name()

    def render(self) -> bytes:
        """Return the one text of the description; its seal makes every changed byte show."""
        content = {
            "schema": ENGINE_SCHEMA,
            "key": self.key.fields(),
            "engine": {"sha256": self.sha256, "bytes": self.size},
            "facts": dict(self.facts),
        }
        sealed = {**content, "seal": _seal(content)}
        return (json.dumps(sealed, indent=1, sort_keys=True) + "\n").encode()


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()
