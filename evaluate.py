"""Measure an encoder on labelled videos.

    python evaluate.py retrieval --checkpoint runs/x/checkpoints/step_00001000.pt \\
        --train train.parquet --test test.parquet -o results
    python evaluate.py linear --checkpoint random --recipe configs/x.yaml --train ... --test ...
    python evaluate.py linear --checkpoint ... --preset configs/eval/cvrl_linear.yaml ...
    python evaluate.py features --checkpoint ... --test test.parquet -o features eval.format=csv
    python evaluate.py fuse --results results/rgb results/flow -o results/both
    python evaluate.py --compare results/a/retrieval.json results/b/retrieval.json

Every test video is counted: one that does not decode is listed, never replaced.
Exit codes: 0 done, 2 usage or recipe, 3 data or failed videos, 4 checkpoint, 5 outputs
of the network that are not finite, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from pipeline import DataError, Manifest
from training import config, distributed, errors
from training.distributed import Process
from training.protocols import MEASURES, compare, export, fuse, inputs, record, usage
from training.protocols.job import Job
from training.protocols.record import read_content
from training.protocols.views import check as check_views
from training.protocols.views import check_clips

EXPORT, FUSE = "features", "fuse"
OPTIONS = {**{name: module.Options for name, module in MEASURES.items()}, EXPORT: export.Options}
STREAMS = ("rgb", "flow")


def main(argv: list[str]) -> int:
    return errors.exit_code_of(run, parse(argv))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=__doc__, epilog=usage.options(OPTIONS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("protocol", nargs="?", choices=[*OPTIONS, FUSE])
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="of the recipe, as clip.stride=2, or of the protocol, eval.k=5",
    )
    parser.add_argument("--checkpoint", metavar="PATH|random|pixels")
    parser.add_argument("--recipe", help="of the network, for random, pixels and weights of others")
    parser.add_argument(
        "--preset", metavar="YAML", help="options as a paper has them: configs/eval"
    )
    parser.add_argument("--train", action="append", default=[], metavar="MANIFEST",
                        help="gallery, or to fit on; once for each of several splits")  # fmt: skip
    parser.add_argument("--test", action="append", default=[], metavar="MANIFEST")
    parser.add_argument("--split", nargs=2, default=("", ""), metavar=("TRAIN", "TEST"),
                        help="splits to take from the two manifests")  # fmt: skip
    parser.add_argument("-o", "--output", metavar="DIR")
    parser.add_argument("--clips", type=_positive, help="uniform clips a video (10): eval.clips")
    parser.add_argument("--batch-size", type=_positive, default=8,
                        help="videos at once (8): the features stay the same")  # fmt: skip
    parser.add_argument("--max-failed", type=int, default=0, help="failed videos allowed (0)")
    parser.add_argument("--allow-overlap", action="store_true",
                        help="measure although test videos are training videos, too")  # fmt: skip
    parser.add_argument("--results", nargs=2, type=Path, metavar=("RGB", "FLOW"),
                        help="fuse: output folders of two encoders")  # fmt: skip
    parser.add_argument("--of", choices=list(MEASURES),
                        help="fuse: the protocol whose results are joined (retrieval)")  # fmt: skip
    parser.add_argument("--compare", nargs=2, type=Path, metavar="JSON",
                        help="only print how two results of one protocol differ")  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    args = parser.parse_intermixed_args(argv)
    if wrong := _wrong(args):
        parser.error(wrong)
    args.of = args.of or "retrieval"
    return args


def run(args: argparse.Namespace) -> int:
    if args.compare:
        print(compare.table(*map(read_content, args.compare)))
        return 0
    make_folder(Path(args.output))
    runs = {FUSE: run_fuse, EXPORT: run_export}
    try:
        return runs.get(args.protocol, run_splits)(args)
    except OSError as error:  # videos that cannot be read are listed instead
        raise errors.ConfigError(
            f"error: cannot read or write · {error.filename2 or error.filename or args.output} · "
            f"{error.strerror} · mend it, or choose another folder with -o"
        ) from error


def run_splits(args: argparse.Namespace) -> int:
    """Measure every pair of manifests, and where there are several, the mean over them."""
    source, options = prepared(args, args.protocol)
    splits = list(labelled_splits(args))
    with distributed.joined(source.recipe.run.device) as process:
        contents = [
            measure(Job(args.protocol, source, options, sets, folder, process))
            for folder, sets in splits
        ]
        tell_mean(args, contents, process)
    return exit_code(args, contents)


def labelled_splits(args: argparse.Namespace) -> Iterator[tuple[Path, dict[str, Manifest]]]:
    """Every pair of manifests, and the folder of its results: where there are several, one each."""
    splits = [labelled(args, *pair) for pair in zip(args.train, args.test, strict=True)]
    inputs.check_splits([sets["train"] for sets in splits])
    for number, sets in enumerate(splits, 1):
        yield Path(args.output, *([f"split{number}"] if len(splits) > 1 else [])), sets


def tell_mean(args: argparse.Namespace, contents: list[dict], process: Process) -> None:
    """Write and print the mean of several splits."""
    if len(contents) > 1 and process.is_main:
        content = record.mean_of(contents)
        told(content, record.write(Path(args.output), content))


def measure(job: Job) -> dict:
    """Measure, write <protocol>.json and print the figures; what the file says."""
    make_folder(job.folder)
    job.check_flow()
    outcome = MEASURES[job.protocol].measure(job)
    content = record.content_of(job, outcome)
    if job.process.is_main:
        told(content, record.write(job.folder, content, outcome))
    return content


def run_export(args: argparse.Namespace) -> int:
    """Write the features of the sets that are named; they need no labels."""
    source, options = prepared(args, EXPORT)
    paths = zip(("train", "test"), (args.train, args.test), args.split, strict=True)
    sets = {part: read(path[0], split) for part, path, split in paths if path}
    for manifest in sets.values():
        export.check(options, manifest)
    with distributed.joined(source.recipe.run.device) as process:
        job = Job(EXPORT, source, options, sets, Path(args.output), process)
        job.check_flow()
        paths = [export.write(job, part) for part in sets]
    content = {part: record.counts(job, part) for part in sets}
    if process.is_main:
        print("\n".join([*record.count_lines(content), *(f"written to {path}" for path in paths)]))
    return exit_code(args, [content])


def run_fuse(args: argparse.Namespace) -> int:
    """Join two results, or those of the two streams of a checkpoint, measured first, and where
    there are several splits, the mean over them.
    """
    if args.results:
        return exit_code(args, [fused(args, args.results, Path(args.output))])
    splits, contents = list(labelled_splits(args)), []
    sources = [prepared(args, args.of, (f"method.stream={stream}",)) for stream in STREAMS]
    with distributed.joined(sources[0][0].recipe.run.device) as process:
        for folder, sets in splits:
            streams = [folder / stream for stream in STREAMS]
            for own, (source, options) in zip(streams, sources, strict=True):
                measure(Job(args.of, source, options, sets, own, process))
            if process.is_main:  # it joins what all have measured
                contents.append(fused(args, streams, folder))
        tell_mean(args, contents, process)
    return exit_code(args, contents)


def fused(args: argparse.Namespace, folders: list[Path], output: Path) -> dict:
    """Join the results of two folders, write and print them; what the file says."""
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise errors.ConfigError(
            f"error: the joined result would replace one of the two · {output} · choose another "
            "folder with -o"
        )
    content, outcome = fuse.measure(folders, args.of)
    if args.of == "retrieval":
        fuse.keep_features(folders, output)
    told(content, record.write(output, content, outcome))
    return content


def prepared(args: argparse.Namespace, protocol: str, more: tuple[str, ...] = ()):
    """The source of the weights with its recipe, and the options of the protocol."""
    preset, changes = inputs.read_preset(args.preset, protocol)
    own = [text for text in args.overrides if text.startswith("eval.")]
    given = config.read_overrides(own).get("eval", {})
    options = config.group(
        "eval", OPTIONS[protocol],
        (preset, str(args.preset)),
        ({"clips": args.clips} if args.clips else {}, "--clips"),
        (given, "the command line"),
    )  # fmt: skip
    if args.clips or "clips" in given:
        check_clips(options, "--clips" if args.clips else "eval.clips", _sets(args))
    check_views(options)
    others = [text for text in args.overrides if text not in own]
    source = inputs.load_source(args.checkpoint, args.recipe, [*changes, *others, *more])
    recipe = source.recipe
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    batched = replace(recipe, data=replace(recipe.data, batch_size=args.batch_size))
    return replace(source, recipe=batched), options


def labelled(args: argparse.Namespace, train: str, test: str) -> dict[str, Manifest]:
    """The two sets, which fit together."""
    sets = {"train": read(train, args.split[0]), "test": read(test, args.split[1])}
    inputs.check_sets(sets["train"], sets["test"], overlap=args.allow_overlap)
    return sets


def read(path: str, split: str) -> Manifest:
    return Manifest.read(path, split, one_split=True)


def told(content: dict, path: Path) -> None:
    print("\n".join(record.lines(content, path)), flush=True)


def exit_code(args: argparse.Namespace, contents: list[dict]) -> int:
    """That of failed videos where there are more than allowed."""
    failed = sum(
        len(content[part]["failed"])
        for content in contents for part in ("train", "test") if part in content
    )  # fmt: skip
    return DataError.exit_code if failed > args.max_failed else 0


def make_folder(path: Path) -> None:
    """Make the output folder before the work, not after it. Raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.ConfigError(
            f"error: cannot make the output folder · {path} · {error.strerror} · choose another "
            "with -o"
        ) from error


def _wrong(args: argparse.Namespace) -> str:
    """What the protocol lacks on the command line, in words; empty where it lacks nothing."""
    if args.compare:
        return ""
    for name in ("results", "of"):
        if getattr(args, name) and args.protocol != FUSE:
            return f"--{name} is of fuse, not of {args.protocol}"
    if args.results and (unused := _beside_results(args)):
        return f"{unused} has no effect with --results, which joins what is measured already"
    sets = ["train", "test"] if args.protocol != EXPORT else [] if args.train else ["test"]
    needed = ["protocol", "output", *([] if args.results else ["checkpoint", *sets])]
    if lacks := [name for name in needed if not getattr(args, name)]:
        flags = ", ".join(name if name == "protocol" else f"--{name}" for name in lacks)
        return f"the following arguments are required: {flags}"
    splits = {len(args.train), len(args.test)} - ({0} if args.protocol == EXPORT else set())
    several = len(splits) > 1 or (splits != {1} and args.protocol == EXPORT)
    if several and not args.results:
        return "--train and --test go together, once for each split; features takes one"
    return ""


def _sets(args: argparse.Namespace) -> list[str]:
    """The sets that are named."""
    return [part for part in ("train", "test") if getattr(args, part)]


def _beside_results(args: argparse.Namespace) -> str:
    """An argument that says how to measure, where nothing is to be measured; empty: none."""
    named = {"--" + name: getattr(args, name)
             for name in ("checkpoint", "recipe", "preset", "train", "test", "clips")}  # fmt: skip
    named |= dict.fromkeys(args.overrides, True)
    return next((name for name, given in named.items() if given), "")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
