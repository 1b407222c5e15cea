"""Two results beside each other, as their files have them."""

import pytest

from training.errors import ConfigError
from training.protocols import compare, record


def content(protocol: str = "finetune", **more) -> dict:
    """What a file says of 40 of 60 test videos answered rightly."""
    counts = {"fingerprint": "f", "split": "", "evaluated": 60, "of": 60, "failed": []}
    own = {
        "protocol": protocol, "options": {"clips": 2}, "checkpoint": "x.pt",
        "checkpoint_sha256": "s", "classes": ["a", "b"], "environment": {},
        "views": {"frames": 4, "stream": "rgb"}, "train": counts, "test": counts,
        "result": {"top-1": 40 / 60}, "chance": {"top-1": 0.5},
        record.INTERVALS: {"top-1": [0.5, 0.8]}, record.TRAINING: {"size": 16, "jitter": 0.8},
    }  # fmt: skip
    return own | more


@pytest.mark.parametrize("over_splits", [False, True])
def test_other_training_clips_are_another_protocol(over_splits):
    results = [content(training={"size": 16, "jitter": jitter}) for jitter in (0.8, 0.0)]
    if over_splits:
        results = [record.mean_of([one, one]) for one in results]
    assert "top-1" in compare.table(results[0], results[0])
    with pytest.raises(ConfigError) as refused:
        compare.table(*results)
    assert str(refused.value) == (
        "error: the protocols differ in training.jitter · 0.8 and 0.0 · measure both with the same "
        "options and manifests"
    )


def test_a_result_of_an_earlier_version_does_not_say_all():
    new, old = content(), content()
    del old[record.TRAINING]
    for pair, which in (((old, new), "A"), ((new, old), "B")):
        silent = f"{which} does not say how its training clips were made"
        assert compare.table(*pair).splitlines()[-1] == silent
    assert "does not say" not in compare.table(old, old)


def test_two_streams_beside_one():
    """What the two were joined from is told only where it is unlike the whole."""
    one = content("retrieval")
    parts = [{name: one[name] for name in ("options", "training", "views")}] * 2
    both = content("retrieval", joined=parts, views=[part["views"] for part in parts])
    assert "top-1" in compare.table(one, both)
    unlike = {**parts[1], "options": {"clips": 3}}
    with pytest.raises(ConfigError, match="the protocols differ in joined · "):
        compare.table(one, content("retrieval", joined=[parts[0], unlike]))


def test_measures_that_only_one_has():
    shares = {"R@1": 0.5, "R@50": 0.9}
    large = content(result=shares, chance=shares, intervals_95={n: [0.4, 1.0] for n in shares})
    small = content(result={"R@1": 0.6}, chance={"R@1": 0.5}, intervals_95={"R@1": [0.5, 0.7]})
    for pair, which in (((large, small), "A"), ((small, large), "B")):
        lines = compare.table(*pair).splitlines()
        assert lines[-1] == f"only in {which}: R@50"
        assert [line.split()[0] for line in lines[3:-2]] == ["R@1"]
    assert "only" not in compare.table(large, large)


def test_the_labels_of_both():
    counts = content()["train"] | {"labelled": {"1 %": 101, "10 %": 954}}
    lines = compare.table(content("semi", train=counts), content("semi", train=counts)).splitlines()
    assert lines[-1].startswith("labels of ") and lines[-1].count("101 (1 %), 954 (10 %)") == 2
