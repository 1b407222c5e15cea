"""What was trained and how, in the words of the recipe."""

from __future__ import annotations

from training.optim import peak_lr
from training.report.run import Run

Facts = dict[str, str]


def recipe_facts(run: Run) -> Facts:
    """Method, network, data, clips, batch, what was seen of them, and the stages."""
    recipe, options = run.recipe, run.recipe.method_options()
    clip, size, batch = recipe.clip, recipe.augment.size, recipe.data.batch_size
    facts = {
        "method": recipe.method.name,
        "network": f"{recipe.backbone.name}, width {recipe.backbone.width}",
        "data": _data(run),
        "clip": f"{clip.frames} frames, stride {clip.stride}, {size} × {size} pixels",
        "batch": f"{batch} videos",
    }
    if options.get("queue_size"):
        facts["queue"] = f"{options['queue_size']:,} keys"
    facts |= {f"stage {name}": text for name, text in _stages(run).items()}
    facts["seen"] = seen(run)
    return facts


def times(run: Run, seconds: dict[str, float]) -> Facts:
    """Durations of the parts of the work; of the steps alone where nothing else is known."""
    named = {**seconds, "in all": sum(seconds.values())} if seconds else {"training": run.seconds}
    facts = {name: duration(value) for name, value in named.items() if value}
    if run.times:
        waited = sum(entry["data_wait_seconds"] for entry in run.times)
        facts["waiting for data"] = f"{duration(waited)}, {100 * waited / run.seconds:.0f} %"
        facts["clips a second"] = f"{sum(run.clips.values()) / run.seconds:,.1f} (mean)"
    return facts


def duration(seconds: float) -> str:
    """As 8.1 s, 3 min 20 s or 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def seen(run: Run) -> str:
    """In steps, videos, clips and frames; the last two are of runs that were timed."""
    text = f"{run.step:,} steps, {_videos(run):,} videos"
    if not run.clips:
        return text
    frames = sum(clips * _frames(run, name) for name, clips in run.clips.items())
    return f"{text} in {sum(run.clips.values()):,} clips, {frames:,} frames"


def _videos(run: Run) -> int:
    """Drawn for the steps done, each as often as it was drawn."""
    if not run.schedule:
        return run.step * run.recipe.data.batch_size
    return sum(stage.samples(max(stage.first_step, min(run.step, stage.last_step)))
               for stage in run.schedule)  # fmt: skip


def _frames(run: Run, stage: str) -> int:
    """Of a clip."""
    own = next((one.recipe for one in run.schedule if one.name == stage), run.recipe)
    return own.clip.frames


def _data(run: Run) -> str:
    if run.train is None:
        return f"{run.recipe.data.train}, which is not here now"
    videos = (run.train[row] for row in range(len(run.train)))
    minutes = sum(float(video.frames / video.fps) for video in videos if video.fps) / 60
    length = f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
    name = f"{run.data_set}, " if run.data_set else ""
    return f"{name}{len(run.train):,} videos, {length} in all, their labels unused"


def _stages(run: Run) -> Facts:
    facts = {}
    for stage in run.schedule:
        steps, optim = stage.last_step - stage.first_step, stage.recipe.optim
        batch = stage.recipe.data.batch_size
        rate = peak_lr(optim, batch)
        of_its_own = f", batch {batch}" if batch != run.recipe.data.batch_size else ""
        facts[stage.name] = (
            f"{steps:,} steps ({steps / stage.steps_per_epoch:.1f} epochs), {optim.name}, "
            f"effective lr {rate:g}, {optim.schedule}{of_its_own}"
        )
    return facts
