from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.distributed import Process
from training.errors import ConfigError, NumericError
from training.features import of_means
from training.protocols import views
from training.protocols.views import Sampling, Views, check, extract, mean_by_video, whole_videos

# Three windows of video 0, two of video 1, one of video 2.
CUT = SimpleNamespace(
    owner=np.array([0, 0, 0, 1, 1, 2]), manifest=SimpleNamespace(labels=np.array([7, 8, 9]))
)
MEAN = torch.tensor([[3.0, 0], [0, 6], [0, 0.5], [9, 9], [2, 0], [0, 4]])


def clips(rows: list[int], failed: list[int]):
    """The windows that decoded, and the entries of those that did not."""
    index = torch.tensor(rows)
    label = torch.from_numpy(CUT.manifest.labels[CUT.owner[rows]])
    entries = [{"index": row, "key": f"v{CUT.owner[row]}", "code": f"E-{row}"} for row in failed]
    return of_means(MEAN[index], label, index, entries)


def test_a_video_is_the_mean_of_its_clips_before_scaling():
    found = mean_by_video(clips([0, 1, 2, 3, 4, 5], []), CUT)
    assert (found.index.tolist(), found.label.tolist()) == ([0, 1, 2], [7, 8, 9])
    expected = torch.tensor([[1.0, 6.5 / 3], [5.5, 4.5], [0, 4]])
    torch.testing.assert_close(found.raw, expected)
    torch.testing.assert_close(found.feature.norm(dim=1), torch.ones(3))


def test_one_clip_that_fails_takes_its_video_out():
    whole = whole_videos(clips([0, 3, 4, 5], [1, 2]), CUT)
    assert whole.index.tolist() == [3, 4, 5]
    assert whole.failed == [{"index": 0, "key": "v0", "code": "E-1"}]
    found = mean_by_video(whole, CUT)
    assert found.index.tolist() == [1, 2] and found.failed == whole.failed
    assert found.videos == 3


@pytest.mark.parametrize(("name", "value"), [("clips", 0), ("window_step", -1), ("size", -4)])
def test_numbers_that_make_no_clips(name, value):
    with pytest.raises(ConfigError, match=f"^error: eval.{name}: expected at least ., got {value}"):
        check(Views(**{name: value}))


def test_a_step_of_windows_without_windows():
    check(Views(test="windows", window_step=3))
    with pytest.raises(ConfigError) as refused:
        check(Views(window_step=3))
    assert str(refused.value) == (
        "error: eval.window_step has no effect without eval.train=windows or eval.test=windows"
    )


def test_features_that_are_no_numbers_are_not_measured(monkeypatch):
    row = torch.arange(3)
    broken = of_means(torch.tensor([[1.0, 2], [torch.nan, 1], [torch.inf, 0]]), row, row, [])
    monkeypatch.setattr(views, "extract_share", lambda *_, **__: broken)
    manifest, alone = SimpleNamespace(path="m.parquet"), Process(0, 1, torch.device("cpu"))
    with pytest.raises(NumericError) as refused:
        extract(None, manifest, None, sampling=Sampling("uniform", 2), process=alone)
    assert str(refused.value) == (
        "error: 2 of 3 outputs of the network are not finite · m.parquet · its weights are damaged "
        "or its training diverged; a classifier trained here wants a lower eval.optim.lr"
    )
