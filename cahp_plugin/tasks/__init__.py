"""Tasks: how a model is fed, what its loss is, and which number says how good it is. A file each."""

from cahp_plugin._lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "base": ["Options", "Task"],
        "evaluation": ["Evaluation", "evaluate", "with_targets"],
        "examples": ["Examples"],
        "metrics": ["Score", "metric_named"],
        "registry": ["TASKS", "encode", "encode_sets", "known_task", "task_of"],
    },
)
