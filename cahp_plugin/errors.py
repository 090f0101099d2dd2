"""Every error that the library raises on purpose, under one root.

An error says what was asked, what is allowed, what came and what to do next. Each class also derives from the built-in
that a caller would expect, so ``except ValueError`` keeps working.
"""


class CAHPError(Exception):
    """Root of all errors raised by :mod:`cahp_plugin`."""


class ConfigError(CAHPError, ValueError):
    """A setting is out of its range, of the wrong type or unknown."""


class DataError(CAHPError, ValueError):
    """The data can't be used: empty, a column missing, a single class, labels out of range, not a number."""


class UnsupportedModelError(CAHPError, TypeError):
    """The model has no attention heads that the library knows how to observe or remove."""


class BudgetError(CAHPError, RuntimeError):
    """A budget can't be met: no smaller model loses so little, or the runtime gets no faster on this machine."""


class SelectionError(CAHPError, ValueError):
    """A set of kept heads names layers or heads that the model does not have, or is empty where it may not be."""


class PruningError(CAHPError, RuntimeError):
    """The dependency graph can't remove the heads that were asked for, or nothing would be removed."""


class CheckpointError(CAHPError, OSError):
    """A pruned checkpoint can't be written to or read from the given place."""


class MissingDependencyError(CAHPError, ImportError):
    """An optional package is needed; the message names the extra that installs it."""


class ExportError(CAHPError, RuntimeError):
    """A model can't be exported, or the exported graph does not compute what the model computes."""
