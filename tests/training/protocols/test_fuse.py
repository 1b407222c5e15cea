import torch

from tests.training.protocols.feature_sets import clustered, random_features
from training.features import failed_once
from training.protocols import fuse, retrieval


def test_dot_products_of_joined_features_are_sums_of_cosines():
    rgb, flow = random_features(1, 30, 4, dim=6), random_features(2, 30, 4, dim=9)
    other_rgb, other_flow = random_features(3, 20, 4, dim=6), random_features(4, 20, 4, dim=9)
    similarity = fuse.summed([rgb, flow]).feature @ fuse.summed([other_rgb, other_flow]).feature.T
    expected = rgb.feature @ other_rgb.feature.T + flow.feature @ other_flow.feature.T
    torch.testing.assert_close(similarity, expected)


def test_two_views_of_the_classes_find_more_than_either():
    """Noise of its own in each: the sum of the similarities averages it."""
    found = []
    for seed in (10, 20):
        test, train = (clustered(seed + n, 400, 8, dim=6, noise=1.0) for n in (0, 1))
        found.append((test, train))
    joined = [fuse.summed(list(parts)) for parts in zip(*found, strict=True)]
    alone = [retrieval.asked(test, train).shares["R@1"] for test, train in found]
    assert retrieval.asked(*joined).shares["R@1"] > max(alone) + 0.05


def test_of_both_only_the_videos_that_both_have():
    rgb, flow = random_features(1, 5, 2), random_features(2, 5, 2)
    fewer = fuse._rows(flow, torch.tensor([True, False, True, True, False]))
    own = fuse._common([rgb, fewer])
    assert [part.index.tolist() for part in own] == [[0, 2, 3]] * 2
    assert torch.equal(own[0].feature, rgb.feature[[0, 2, 3]])


def test_a_video_that_failed_in_both_is_listed_once():
    entries = [{"index": 4, "key": "e"}, {"index": 1, "key": "b"}, {"index": 4, "key": "e"}]
    assert failed_once(entries) == [{"index": 1, "key": "b"}, {"index": 4, "key": "e"}]
