"""The formats, in the order in which they are tried: what is special comes before what is general.

A new data set's format is one file beside this one and one line here.
"""

from __future__ import annotations

from pipeline.annotations import folders, lists
from pipeline.annotations.activitynet import is_activitynet, read_activitynet
from pipeline.annotations.diving48 import is_diving48, read_diving48
from pipeline.annotations.hmdb51 import is_hmdb51, read_hmdb51
from pipeline.annotations.kinetics import is_kinetics, read_kinetics
from pipeline.annotations.listing import Format
from pipeline.annotations.something import (
    is_something_v1,
    is_something_v2,
    read_something_v1,
    read_something_v2,
)
from pipeline.annotations.ucf101 import is_ucf101, read_ucf101
from pipeline.annotations.webdataset import is_webdataset, read_webdataset

FORMATS = (
    Format("ucf101", "UCF101 splits", is_ucf101, read_ucf101),
    Format("hmdb51", "HMDB51 splits", is_hmdb51, read_hmdb51),
    Format("kinetics", "Kinetics CSV", is_kinetics, read_kinetics),
    Format("activitynet", "ActivityNet 1.3 segments", is_activitynet, read_activitynet),
    Format("diving48", "Diving48", is_diving48, read_diving48),
    Format("ssv2", "Something-Something v2", is_something_v2, read_something_v2),
    Format("ssv1", "Something-Something v1 or Jester", is_something_v1, read_something_v1),
    Format("webdataset", "WebDataset tars", is_webdataset, read_webdataset),
    Format(
        "class-folders",
        "class folders (root/class/**/video)",
        folders.is_class_tree,
        folders.read_class_tree,
    ),
    Format("folder", "folder without labels", folders.is_folder, folders.read_folder),
    Format("glob", "pattern without labels", folders.is_pattern, folders.read_pattern),
    Format("video", "video files", folders.is_video, folders.read_video),
    Format(
        "coclr",
        "CoCLR or ViCC list of frame folders",
        lists.is_frame_folder_list,
        lists.read_frame_folder_list,
    ),
    Format("csv", "CSV with a header", lists.is_table, lists.read_table_list),
    Format("list", "list of paths", lambda source: source.path.exists(), lists.read_list),
)
FORMAT_NAMES = tuple(form.name for form in FORMATS)
