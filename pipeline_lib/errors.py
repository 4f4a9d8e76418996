"""The kinds of failure, and what each asks of whoever meets it.

A message says what, where, what was got against what was expected, and what to do next; in one line where a person
reads it.
"""

from __future__ import annotations


class UserError(ValueError):
    """A wrong use or a wrong input that the user can mend; the terminal prints it as one line, without a traceback."""


class ContractViolation(ValueError):
    """A stage's rows break their contract beyond the threshold; the quarantine file and report say why."""


class CorruptArtifact(ValueError):
    """Bytes on disk are not the bytes that the manifest recorded; nothing may be computed from them."""


class TransientError(RuntimeError):
    """A fault that may pass by itself (a network edge, a busy port). The only kind that is retried."""


class TrainingFailed(RuntimeError):
    """The trainer process ended without its last checkpoint; the message carries the tail of its log."""
