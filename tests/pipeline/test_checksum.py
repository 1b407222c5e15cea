import hashlib
import zlib

from hypothesis import given
from hypothesis import strategies as st

from pipeline import checksum
from pipeline.checksum import crc32, sha256
from pipeline.container import ByteRange


@given(st.binary(max_size=50), st.integers(0, 60), st.none() | st.integers(0, 60))
def test_they_are_those_of_the_bytes_in_the_range(tmp_path_factory, data, offset, size):
    path = tmp_path_factory.getbasetemp() / "checksum"
    path.write_bytes(data)
    inside = data[offset:] if size is None else data[offset : offset + size]
    assert sha256(path, offset, size) == hashlib.sha256(inside).hexdigest()
    with ByteRange(path, offset, size) as file:
        assert crc32(file) == zlib.crc32(inside)
        assert crc32(file) == 0, "nothing is left to read"


def test_more_than_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checksum, "CHUNK_BYTES", 7)
    data = bytes(range(256)) * 5
    (tmp_path / "a").write_bytes(data)
    with ByteRange(tmp_path / "a", 3, 1000) as file:
        assert crc32(file) == zlib.crc32(data[3:1003])
