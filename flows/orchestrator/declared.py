"""Deployments as they are declared: those of prefect.yaml, and the nights of users' files that `cpt deploy` added.

Imports Prefect only where a deployment is put in the server's terms: to list the nights need not take seconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline_lib.store.files import replace_file

PROJECT = Path(__file__).resolve().parents[2]
NIGHTS = "nights.json"  # beside Prefect's database: what `cpt deploy` deployed


class Declared:
    """A deployment as prefect.yaml declares it, in the server's terms."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.entry = entry
        self.entrypoint: str = entry["entrypoint"]
        self.name = f"{_flow_name(self.entrypoint)}/{entry['name']}"

    def shared_fields(self) -> dict[str, Any]:
        """What a person may change as well."""
        from prefect.utilities.templating import apply_values

        limit = self.entry.get("concurrency_limit")
        options = {key: value for key, value in limit.items() if key != "limit"} if isinstance(limit, dict) else None
        pool = apply_values(self.entry["work_pool"], {})  # {{ $NAME }} is looked up in the environment
        return {
            "description": self.entry["description"],
            "tags": self.entry.get("tags", []),
            "parameters": self.entry.get("parameters", {}),
            "enforce_parameter_schema": self.entry.get("enforce_parameter_schema", True),
            "concurrency_limit": limit["limit"] if isinstance(limit, dict) else limit,
            "concurrency_options": options,
            "work_pool_name": pool["name"],
            "job_variables": pool.get("job_variables", {}),
        }

    def schedules(self) -> dict[str, dict[str, Any]]:
        """Its schedules by their slugs."""
        from prefect.client.schemas.schedules import construct_schedule

        found = {}
        for entry in self.entry.get("schedules", []):
            words = {key: entry[key] for key in ("cron", "interval", "rrule", "anchor_date", "timezone") if key in entry}
            found[entry["slug"]] = {
                "schedule": construct_schedule(**words).model_dump(mode="json"),
                "active": entry.get("active", True),
                "parameters": entry.get("parameters", {}),
            }
        return found

    def record(self) -> dict[str, Any]:
        """What the next start compares with."""
        return {"fields": self.shared_fields(), "schedules": self.schedules()}


def declaration() -> dict[str, Any]:
    """What prefect.yaml says."""
    return dict(yaml.safe_load((PROJECT / "flows" / "prefect.yaml").read_text()))


def saved_nights(home: Path) -> list[dict[str, Any]]:
    """What was deployed so, in the words of prefect.yaml."""
    path = home / "prefect" / NIGHTS
    return list(json.loads(path.read_text())) if path.exists() else []


def save_nights(home: Path, entries: list[dict[str, Any]]) -> None:
    """Keep what was deployed so, for the platform's next start."""
    replace_file(home / "prefect" / NIGHTS, json.dumps(entries, indent=1).encode())


def _flow_name(entrypoint: str) -> str:
    """The name that the decorator gives it, else the function's; nothing is imported."""
    from prefect.flows import load_flow_arguments_from_entrypoint

    return load_flow_arguments_from_entrypoint(entrypoint).get("name") or entrypoint.rsplit(":", 1)[1].replace("_", "-")
