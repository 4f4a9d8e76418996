"""What the configs of all stages share: they are frozen, and know which of their fields name an artifact."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def operational(default: Any, **options: Any) -> Any:
    """A field that cannot change the output: it is no part of any key."""
    return Field(default, json_schema_extra={"operational": True}, **options)


def added(default: Any, **options: Any) -> Any:
    """A field that came when artifacts had been made: at its default it is no part of a key, so that those are found again."""
    return Field(default, json_schema_extra={"added": True}, **options)


class StageConfig(BaseModel):
    """The choices of one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def key_fields(self) -> dict[str, Any]:
        """The fields that name an artifact, as JSON values: all but the operational ones, and later ones at their default."""
        fields: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            value = getattr(self, name)
            marks = extra if isinstance(extra, dict) else {}
            if marks.get("operational") or (marks.get("added") and value == info.default):
                continue
            fields[name] = (
                value.key_fields() if isinstance(value, StageConfig) else self.model_dump(mode="json", include={name})[name]
            )
        return fields
