"""Findings of the doctor: kinds of faults, how bad they are, how to mend them, and where they were seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Severity = Literal["error", "warning", "note"]
_EXAMPLES = 5


class Kind(NamedTuple):
    """A kind of fault. A note is worth knowing, and no fault."""

    name: str
    severity: Severity
    mend: str


class Finding(NamedTuple):
    """One fault at one place."""

    kind: Kind
    place: str  # file, picture id, annotation id
    detail: str


def grouped(findings: Iterable[Finding]) -> dict[Kind, list[Finding]]:
    """Return the findings of each kind, errors first."""
    groups: dict[Kind, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.kind, []).append(finding)
    order = ("error", "warning", "note")
    return dict(sorted(groups.items(), key=lambda item: order.index(item[0].severity)))


def findings_text(groups: dict[Kind, list[Finding]]) -> str:
    """Return the findings by kind: how many, the mend, and the first places."""
    lines = []
    for kind, findings in groups.items():
        lines.append(f"{kind.severity}: {kind.name} ({len(findings):,}): {kind.mend}")
        lines += [f"    {one.place}{f': {one.detail}' if one.detail else ''}" for one in findings[:_EXAMPLES]]
        lines += ["    …"] * (len(findings) > _EXAMPLES)
    return "\n".join(lines)


def findings_json(groups: dict[Kind, list[Finding]]) -> list[dict[str, Any]]:
    """Return all findings as plain values."""
    return [
        {
            **kind._asdict(),
            "count": len(findings),
            "places": [{"place": one.place, "detail": one.detail} for one in findings],
        }
        for kind, findings in groups.items()
    ]
