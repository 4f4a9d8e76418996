"""What the configs of all stages share: they are frozen, and know which of their fields name an artifact."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def operational(default: Any, **options: Any) -> Any:
    """A field that cannot change the output: it is no part of any key."""
    return Field(default, json_schema_extra={"operational": True}, **options)


class StageConfig(BaseModel):
    """The choices of one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def key_fields(self) -> dict[str, Any]:
        """The fields that name an artifact: all but the operational ones, as JSON values."""
        fields: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and extra.get("operational"):
                continue
            value = getattr(self, name)
            fields[name] = (
                value.key_fields() if isinstance(value, StageConfig) else self.model_dump(mode="json", include={name})[name]
            )
        return fields
