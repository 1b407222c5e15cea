"""What a loader is put together from: host views, stages and lanes, for a part of the views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.augment import AugmentConfig
from pipeline.clip import ClipConfig
from pipeline.errors import DecoderFailed
from pipeline.host import HostLane, HostViews
from pipeline.lane_runs import LaneRuns
from pipeline.lanes import (
    AUTO,
    NUMBERS,
    cpu_rate,
    divided,
    fewest_lanes,
    kinds_of,
    lane_rates,
    measured_line,
    share_of_cpu,
    without_measuring,
)
from pipeline.manifest import Manifest
from pipeline.refused import Refused
from pipeline.sample import Reader, Sample, TrainingStage
from pipeline.stream import Stream

if TYPE_CHECKING:
    from pipeline.loader import DataConfig, Place


def host_views(augment: AugmentConfig, device: str, lumas: tuple[int, ...] | None) -> HostViews:
    """lumas: places of the views whose flow is wanted; None where no view's is."""
    return HostViews(augment.size, device == "cpu", next_frame=lumas is not None, lumas=lumas or ())


def build_lanes(
    manifest: Manifest,
    data: DataConfig,
    device: str,
    host: HostViews,
    *,
    augments: tuple[AugmentConfig, ...],
    kinds: tuple[str, ...],
    tracks_per_sample: int,
    training: bool,
) -> dict[str, list]:
    """Lanes by kind of decoder. kinds: of every place of a batch; data.lanes: a number by now."""
    if host.whole:
        common = augments[0]
        made = [HostLane(host, mean=common.mean, std=common.std) for _ in range(data.lanes)]
        return {"ffmpeg": made}
    # DALI is imported here so that `import pipeline` works where DALI is missing.
    from pipeline.graph import GraphSpec, Lane

    lanes = {}
    for kind, samples in Counter(kinds).items():
        # Beside lanes that decode, one is enough for what the host has decoded.
        number = 1 if kind == "ffmpeg" and len(set(kinds)) > 1 else data.lanes
        spec = GraphSpec(
            kind=kind,
            device=device,
            augments=augments,
            training=training,
            rotated=manifest.rotated,
            # A sample's tracks stay together, and no lane gets more than its share of samples.
            batch=-(-samples // number) * tracks_per_sample,
            threads=data.threads,
            depth=data.prefetch_batches,
            next_frame=host.next_frame,
            lumas=host.lumas,
        )
        lanes[kind] = [Lane(spec) for _ in range(number)]
    return lanes


@dataclass(frozen=True)
class TrainingParts:
    """Of a training loader. tracks_per_sample: one of a whole clip, or one of every frame.
    decoder: as chosen. luma_views: those whose flow is wanted, None where flow is not made.
    """

    manifest: Manifest
    clip: ClipConfig
    augment: AugmentConfig
    augments: tuple[AugmentConfig, ...]
    tracks_per_sample: int
    place: Place
    decoder: str
    seed: int
    first_sample: int
    luma_views: tuple[int, ...] | None
    refused: Refused

    def stream(
        self, data: DataConfig, views: tuple[int, ...], shift: int, say: Callable[[str], None]
    ) -> Stream:
        """Of these views, of the samples of the process `shift` ranks on."""
        stage = self.stage(data, views, shift)
        return Stream(stage, self.lanes(data, stage), data, say)

    def stage(self, data: DataConfig, views: tuple[int, ...], shift: int) -> TrainingStage:
        local = data.batch_size // self.place.world
        first = (self.place.rank + shift) % self.place.world * local
        slots = tuple(range(first, first + local))
        share = 0.0 if data.cpu_share == AUTO else float(data.cpu_share)
        return TrainingStage(
            manifest=self.manifest,
            clip=self.clip,
            augments=self.augments,
            reader=Reader(data.decode_timeout_seconds, self._host(views)),
            seed=self.seed,
            global_batch=data.batch_size,
            first_sample=self.first_sample,
            views=views,
            slots=slots,
            kinds=kinds_of(slots, self.decoder, share),
            refused=self.refused,
        )

    def lanes(self, data: DataConfig, stage: TrainingStage) -> dict[str, list]:
        return build_lanes(
            self.manifest, data, self.place.device, self._host(stage.views),
            augments=tuple(self.augments[view] for view in stage.views),
            kinds=stage.kinds,
            tracks_per_sample=self.tracks_per_sample,
            training=True,
        )  # fmt: skip

    def _host(self, views: tuple[int, ...]) -> HostViews:
        wanted = self.luma_views
        places = wanted and tuple(place for place, view in enumerate(views) if view in wanted)
        return host_views(self.augment, self.place.device, places)

    def settled(
        self,
        data: DataConfig,
        streams: Sequence[tuple[tuple[int, ...], int]],
        *,
        say: Callable[[str], None],
        agreed: Callable[[Any], Any],
    ) -> DataConfig:
        """The configuration with a number for each `auto`: measured where lanes decode.

        streams: views and shift of each, as for `stream`; all are measured at once, as they run.
        agreed: returns what rank 0 passes to it. The split must not differ between processes.
        """
        both = self.decoder == "both"
        measured = data.lanes == AUTO or (both and data.cpu_share == AUTO)
        if self.decoder not in ("nvdec", "both") or not measured:
            lanes, _ = without_measuring(data.lanes, self.decoder, self.place.device)
            return replace(data, lanes=lanes)
        stages = [self.stage(data, *stream) for stream in streams]
        rates = self._rates(data, stages)
        lanes = fewest_lanes(rates)
        share = data.cpu_share
        if both and share == AUTO:
            share = share_of_cpu(cpu_rate(stages, data, say=say), rates[lanes])
        lanes, share = agreed((lanes, share))
        say(measured_line(rates, lanes))
        if both:
            say(f"data.cpu_share: {share} of every batch is decoded on the CPU")
        return replace(data, lanes=lanes, cpu_share=share)

    def _rates(self, data: DataConfig, stages: list[TrainingStage]) -> dict[int, float]:
        alone = [replace(stage, kinds=("nvdec",) * stage.size) for stage in stages]

        def build(number: int) -> list:
            each = divided(replace(data, lanes=number), len(alone))
            return [lane for stage in alone for lane in self.lanes(each, stage)["nvdec"]]

        # Each stage has as many lanes, so each must have as many samples.
        found = [self._whole(data, stage) for stage in alone]
        samples = [sample for some in found for sample in some[: min(map(len, found))]]
        numbers = [number for number in NUMBERS if number % len(alone) == 0]
        numbers = numbers if data.lanes == AUTO else [int(data.lanes)]
        return lane_rates(build, samples, ahead=data.prefetch_batches, numbers=numbers)

    def _whole(self, data: DataConfig, stage: TrainingStage) -> list[Sample]:
        """Samples of the first step that decode. What does not is found again in the training."""
        samples = stage[0].samples()
        (lane,) = self.lanes(replace(data, lanes=1), stage)["nvdec"]
        culprits = LaneRuns(lane).culprits(samples)
        if len(culprits) == len(samples):
            raise DecoderFailed(culprits[0][1])
        bad = {sample.number for sample, _ in culprits}
        return [sample for sample in samples if sample.number not in bad]
