"""Pretrain a video encoder without labels.

    python train.py configs/videomoco_k400.yaml data.train=k400.parquet optim.lr=0.01
    torchrun --nproc-per-node=8 train.py configs/videomoco_k400.yaml data.train=k400.parquet

The same command continues a run that was stopped. Exit codes: 0 done, 2 usage or recipe, 3 data,
4 checkpoint, 5 numeric, 6 distributed, 75 stopped by a signal and saved, 130 Ctrl-C, saved.
"""

from __future__ import annotations

import argparse
import signal
import sys

import torch
from omegaconf import OmegaConf

from models.ops import set_debug
from pipeline import Manifest
from pipeline.loader import Loader, decoding_of
from pipeline.quarantine import Quarantine
from training import config, distributed, errors, garbage, stages
from training.distributed import Process, StopSignal
from training.dry_run import dry_run
from training.online import OnlineRetrieval
from training.resume import StageState, as_run, flow_of_run, resume, share_of_run
from training.runlog import Journal, RunFolder, environment
from training.staging import staged
from training.step import build_step
from training.step import check as check_step


def main(argv: list[str]) -> int:
    return errors.exit_code_of(start, parse(argv))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", help="a YAML file, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as optim.lr=0.03")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|PATH",
        help="auto: continue what is in run.dir; never: refuse to; or a checkpoint file",
    )
    parser.add_argument("--print-config", action="store_true", help="print the recipe and stop")
    parser.add_argument("--dry-run", action="store_true", help="build all, read a batch and stop")
    parser.add_argument("--debug", action="store_true", help="show tracebacks, check loss inputs")
    return parser.parse_intermixed_args(argv)


def start(args: argparse.Namespace) -> int:
    set_debug(args.debug)
    recipe = config.load(args.recipe, args.overrides)
    if args.print_config:
        print(OmegaConf.to_yaml(OmegaConf.create(recipe.plain())), end="")
        return 0
    with distributed.joined(recipe.run.device) as process:
        return run(recipe, process, args)


def run(recipe: config.Recipe, process: Process, args: argparse.Namespace) -> int:
    """The stages of a recipe, one after the other. Returns the exit code."""
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    check_step(recipe.run, process)
    manifest = Manifest.read(recipe.data.train, recipe.data.split, one_split=True)
    distributed.check_same(f"{manifest.fingerprint} {recipe.plain()}", process)
    schedule = stages.plan(recipe, len(manifest))
    if args.dry_run:
        dry_run(schedule, manifest, process)
        return 0

    folder = RunFolder(recipe.run.dir, writer=process.is_main)
    state = resume(args.resume, folder, recipe, manifest, process)
    folder.write_text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(recipe.plain())))
    folder.write_json("env.json", environment())
    decoding = decoding_of(manifest, recipe.data, str(process.device))
    folder.say(f"{len(manifest)} videos, {decoding}, {process.world} process(es)")

    quarantine = Quarantine(
        folder.path / "quarantine.jsonl",
        videos=len(manifest),
        max_bad_fraction=recipe.data.max_bad_fraction,
        say=folder.say,
    )
    stop = StopSignal(process)
    first, last = state.step if state else 0, schedule[-1].last_step
    journal = Journal(folder, recipe, world=process.world, first=first, last=last)
    with journal, garbage.held_back():
        for stage in schedule:
            if state and state.step >= stage.last_step and stage is not schedule[-1]:
                continue
            method, optimizer = stages.build(stage, process, fresh=state is None, say=folder.say)
            if state:
                folder.say(stages.restore(stage, method, optimizer, state))
            loader = stages.training_loader(
                stage, manifest, method, process, quarantine, cpu_share=share_of_run(state),
                say=folder.say,
            )  # fmt: skip
            under_way = StageState(
                stage, method, optimizer, process, folder, as_run(recipe, loader), manifest,
                run_ends=last, flow=flow_of_run(state, loader),
            )  # fmt: skip
            step = train(under_way, max(stage.first_step, first), loader, journal, stop)
            state = under_way.checkpoint(step)
            if stop.seen and step < last:
                folder.say(f"stopped by a signal, saved at step {step}: run the same command again")
                interrupted = stop.seen == signal.SIGINT
                return errors.EXIT_INTERRUPTED if interrupted else errors.EXIT_STOPPED
    folder.say(f"done at step {last}: {folder.checkpoints}")
    return 0


def train(
    under_way: StageState, number: int, loader: Loader, journal: Journal, stop: StopSignal
) -> int:
    """Steps of a stage from `number` on. Returns the number reached: a signal may come earlier."""
    stage, process, run = under_way.stage, under_way.process, under_way.stage.recipe.run
    step = build_step(under_way.method, under_way.optimizer, process, run)
    online = OnlineRetrieval(stage, process, say=under_way.folder.say)
    batches = loader.batches(number - stage.first_step, stage.last_step - stage.first_step)
    for batch in journal.watched(staged(batches, process.device)):
        scalars = step(
            batch,
            number=number,
            lr=stage.lr(number),
            seed=run.seed,
            epoch=stage.epoch(number),
            samples=stage.samples(number),
        )
        number += 1
        garbage.sweep(number)
        if online.is_due(number):
            scalars |= online.measure(under_way.method.encoder())
        journal.add(number, stage, scalars)
        stopping = stop.agreed()
        if stopping or under_way.is_due(number):
            journal.flush()
            under_way.save(number, stopping=stopping)
        if stopping:
            break
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
