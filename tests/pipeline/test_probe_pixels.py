"""Every pixel format comes out as 8-bit RGB, as the ffmpeg program shows it.

What holds: in 4:2:0 and 4:2:2 of 8 bits, 4:4:4, grey and RGB, every pixel is the same. With more
than 8 bits, and in interlaced pictures, the program places chroma samples a quarter or half a
sample elsewhere before it interpolates them, so at hard chroma edges the two differ (luma and the
colour matrix are the same). The source here has hard edges in luma and soft ones in chroma, stored
without loss where that matters: 8-bit formats stay within 2 levels, deeper ones within 3 and 98 %
of their values within 2 (chroma is rounded to 8 bits on the way). A wrong matrix, range or bit
depth would be off by more.
"""

import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.decode import decode_frames
from pipeline.manifest import Video
from pipeline.probe import probe

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
PICTURE = "lum='{0}*(60+mod(X*5+Y*3+N*9,120))':cb='{0}*(90+20*sin((X+3*N)/60))'"
PICTURE += ":cr='{0}*(170+20*cos((X-N)/60))'"
BLANK = "nullsrc=s=128x96:r=25:d=0.2"
SOURCE = f"{BLANK},format=yuv444p,geq={PICTURE.format(1)}"
DEEP_SOURCE = f"{BLANK},format=yuv444p10le,geq={PICTURE.format(4)}"
TAGS = "setparams=color_primaries={0}:colorspace={1}:color_trc={2}"
X265 = ["-c:v", "libx265", "-x265-params", "log-level=none:lossless=1", "-pix_fmt", "yuv420p10le"]
INTERLACED = ["-pix_fmt", "yuv420p", "-flags", "+ilme+ildct"]
KINDS = {
    "8_bit.mp4": ["-c:v", "libx264", "-pix_fmt", "yuv420p"],
    "bt709.mp4": [
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        "-vf",
        TAGS.format("bt709", "bt709", "bt709"),
    ],
    "10_bit.mp4": ["-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p10le"],
    "422.mp4": ["-c:v", "libx264", "-pix_fmt", "yuv422p"],
    "422_10_bit.mkv": ["-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv422p10le"],
    "444.mp4": ["-c:v", "libx264", "-pix_fmt", "yuv444p"],
    "grey.mp4": ["-c:v", "libx264", "-pix_fmt", "gray"],
    "full_range.mp4": ["-c:v", "libx264", "-pix_fmt", "yuvj420p"],
    "full_range.avi": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
    "alpha.webm": ["-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-cpu-used", "8"],
    "hdr_pq.mp4": [*X265, "-vf", TAGS.format("bt2020", "bt2020nc", "smpte2084")],
    "hdr_hlg.mp4": [*X265, "-vf", TAGS.format("bt2020", "bt2020nc", "arib-std-b67")],
    "interlaced.mp4": ["-c:v", "libx264", "-qp", "0", *INTERLACED],
    "interlaced.ts": ["-c:v", "libx264", "-qp", "0", *INTERLACED],
    "odd_size.mkv": ["-vf", "scale=121:91", "-c:v", "ffv1", "-pix_fmt", "yuv420p"],
    "rgb.mkv": ["-c:v", "ffv1", "-pix_fmt", "bgr0"],
}
EXACT = {"8_bit.mp4", "bt709.mp4", "422.mp4", "444.mp4", "grey.mp4", "full_range.mp4"}
EXACT |= {"full_range.avi", "alpha.webm", "odd_size.mkv", "rgb.mkv"}


def ffmpeg(*arguments) -> bytes:
    command = [FFMPEG, "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize("name", KINDS)
def test_pictures_are_those_of_the_ffmpeg_program(tmp_path, name):
    path = tmp_path / name
    deep = any("p10" in word for word in KINDS[name])
    source = DEEP_SOURCE if deep else SOURCE
    ffmpeg("-f", "lavfi", "-i", source, *KINDS[name], "-threads", "1", path)
    facts = probe(path)
    assert facts == probe(path, scan="packets")
    video = Video.of(facts, key=name, path=path)
    ours = decode_frames(video, np.arange(facts.frames), timeout_seconds=30)
    assert ours.dtype == np.uint8
    to_rgb = ["-sws_flags", "bilinear", "-fps_mode", "passthrough", "-pix_fmt", "rgb24"]
    raw = ffmpeg("-i", path, *to_rgb, "-f", "rawvideo", "-")
    theirs = np.frombuffer(raw, np.uint8).reshape(ours.shape)
    difference = np.abs(ours.astype(int) - theirs)
    assert np.ptp(theirs) > 100
    assert difference.max() <= (0 if name in EXACT else 3 if deep else 2)
    assert np.mean(difference > 2) < 0.02
