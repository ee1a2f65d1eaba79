"""Learning-rate schedules, as the factor on each group's own rate at a step counted from 0."""

import math

from launch.config import ScheduleConfig, decay_start


def factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Warm-up rises linearly and step `warmup_steps` is the first at the full rate.

    wsd holds the rate and ends in the 1 - sqrt cooldown of "Scaling Laws and Compute-Optimal
    Training Beyond Fixed Training Durations" (arXiv:2405.18392); inverse_sqrt follows "Attention
    Is All You Need" (arXiv:1706.03762) and has no final value.
    """
    warmup = schedule.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule.name == "inverse_sqrt":
        return math.sqrt((warmup + 1) / (step + 1))
    start = decay_start(schedule, steps)
    if step < start:
        return 1.0
    progress = (step - start) / (steps - start)
    left = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "wsd": 1 - math.sqrt(progress),
    }[schedule.name]
    return schedule.final_fraction + (1 - schedule.final_fraction) * left
