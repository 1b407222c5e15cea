"""What users have on disk (folders, lists, tars) -> which videos there are, and their labels.

formats   all formats in the order in which they are tried; each has a file of its own
listing   what a format reads from a source
text      annotation files as text, CSV, JSON
locate    where listed videos are on the disk
labels    labels -> numbers
read      all of it: sources -> rows
"""

from pipeline.annotations.formats import FORMAT_NAMES, FORMATS
from pipeline.annotations.listing import (
    SPLITS,
    VIDEO_SUFFIXES,
    Entry,
    Format,
    Listing,
    Options,
    Source,
    Span,
    is_video_name,
)
from pipeline.annotations.locate import suggested_root
from pipeline.annotations.path_list import COLUMNS
from pipeline.annotations.read import Annotations, Row, read_annotations, read_source

__all__ = [
    "COLUMNS",
    "FORMATS",
    "FORMAT_NAMES",
    "SPLITS",
    "VIDEO_SUFFIXES",
    "Annotations",
    "Entry",
    "Format",
    "Listing",
    "Options",
    "Row",
    "Source",
    "Span",
    "is_video_name",
    "read_annotations",
    "read_source",
    "suggested_root",
]
