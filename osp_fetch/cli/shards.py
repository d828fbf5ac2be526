"""The value of --shard: which share of the rows, also as batch systems state it."""

from __future__ import annotations

from collections.abc import Mapping

import click


def _slurm_shard(environment: Mapping[str, str], total: str) -> tuple[str, str]:
    """Return the index of a task of a Slurm array, from 0, and the number of shards, empty if not stated.

    Raises:
        click.UsageError: A variable is no number, or the array has not one task for each shard.
    """
    numbers = {}
    for name, default in (("ID", ""), ("MIN", "0"), ("STEP", "1"), ("COUNT", total), ("MAX", "")):
        text = environment.get(f"SLURM_ARRAY_TASK_{name}") or default
        if text and not (text.isdigit() and (name != "STEP" or int(text))):
            raise click.UsageError(f"--shard auto: SLURM_ARRAY_TASK_{name} is {text!r}; use --shard I/N")
        numbers[name] = int(text) if text else None
    task, first, step, count, last = (numbers[name] for name in ("ID", "MIN", "STEP", "COUNT", "MAX"))
    assert task is not None
    assert first is not None
    assert step is not None
    has_gaps = None not in (last, count) and (last - first) // step + 1 != count  # type: ignore[operator]
    if has_gaps or (total and count != int(total)):
        raise click.UsageError(
            f"--shard auto: the array has {count} tasks, not one for each shard, so that the number of a "
            "task does not say which shard is meant; use --shard I/N, such as --shard "
            f"$SLURM_ARRAY_TASK_ID/{total or 'N'} where the first array began at 0"
        )
    return str((task - first) // step), total or str(count or "")


def shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Parse the value of --shard.

    Args:
        text: `i/n`; `auto` to read both from the environment (Slurm array, indexed Kubernetes job); or
            `auto/n` if the environment contains only the index.
        environment: The environment variables.

    Returns:
        (i, n) with 0 <= i < n.

    Raises:
        click.UsageError: The text is malformed, or the environment does not contain the numbers.
    """
    index, slash, total = text.partition("/")
    if index == "auto":
        if environment.get("SLURM_ARRAY_TASK_ID"):
            index, total = _slurm_shard(environment, total)
        else:
            index = environment.get("JOB_COMPLETION_INDEX", "")
            total = total or environment.get("JOB_COMPLETIONS", "")
        if not index:
            raise click.UsageError(
                "--shard auto: the environment has no Slurm array or indexed Kubernetes job; use --shard I/N"
            )
        if not total:
            raise click.UsageError(
                "--shard auto: the environment does not state the number of shards; use --shard auto/N"
            )
    elif not slash:
        raise click.UsageError(f"--shard: {text!r}: expected I/N, such as 0/4")
    if not (index.isdigit() and total.isdigit() and int(index) < int(total)):
        raise click.UsageError(f"--shard: {index}/{total}: expected I/N with 0 <= I < N")
    return int(index), int(total)
