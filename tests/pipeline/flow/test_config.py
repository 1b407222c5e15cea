"""Settings of the flow operators: each that is out of range is named."""

import pytest
from omegaconf import OmegaConf

from pipeline.flow.config import DisConfig, FlowConfig, NvofConfig, Tvl1Config, check


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"scales": 0}, "flow.tvl1.scales: expected at least 1, got 0"),
        ({"warps": 0}, "flow.tvl1.warps: expected at least 1, got 0"),
        ({"iterations": -1}, "flow.tvl1.iterations: expected at least 1, got -1"),
        ({"attachment": 0.0}, "flow.tvl1.attachment: expected more than 0, got 0.0"),
        ({"tightness": float("nan")}, "flow.tvl1.tightness: expected more than 0, got nan"),
        (
            {"time_step": 0.3},
            "flow.tvl1.time_step: expected a number in (0, 0.25], where the dual step converges, "
            "got 0.3",
        ),
        (
            {"scale_step": 1.0},
            "flow.tvl1.scale_step: expected a number between 0 and 1, got 1.0",
        ),
    ],
)
def test_tvl1_settings_out_of_range(fields, message):
    with pytest.raises(ValueError) as refused:
        check(FlowConfig(tvl1=Tvl1Config(**fields)))
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "config, message",
    [
        (
            FlowConfig(encoding="jpeg"),
            "flow.encoding: expected raw or image, got 'jpeg'",
        ),
        (
            FlowConfig(official=True),
            "flow.official: treats flow as a picture, and raw is none; set flow.encoding=image",
        ),
        (
            FlowConfig(nvof=NvofConfig(grid=3)),
            "flow.nvof.grid: expected 1, 2 or 4 pixels, got 3",
        ),
        (
            FlowConfig(nvof=NvofConfig(preset="best")),
            "flow.nvof.preset: expected slow, medium or fast, got 'best'",
        ),
        (
            FlowConfig(dis=DisConfig(preset="slow")),
            "flow.dis.preset: expected ultrafast, fast or medium, got 'slow'",
        ),
    ],
)
def test_settings_out_of_range(config, message):
    with pytest.raises(ValueError) as refused:
        check(config)
    assert str(refused.value) == message


def test_a_recipe_can_hold_the_settings():
    typed = OmegaConf.merge(OmegaConf.structured(FlowConfig), {"tvl1": {"iterations": 12}})
    config = OmegaConf.to_object(typed)
    assert config == FlowConfig(tvl1=Tvl1Config(iterations=12))
    check(config)
