"""Work goes on with fewer pictures where memory runs out."""

import pytest
import torch

from maskrcnn.memory import BatchLimit, MemoryShortage, is_out_of_memory


class Device:
    """Computes up to `room` pictures, and remembers how many it was asked for."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.error, self.asked = room, error or torch.OutOfMemoryError("CUDA out of memory."), []

    def __call__(self, pictures: int) -> str:
        self.asked.append(pictures)
        if pictures > self.room:
            raise self.error
        return f"{pictures} at a time"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_failed_allocation_halves_the_batch_and_the_limit_stays(error):
    device, limit = Device(3, error), BatchLimit()
    assert is_out_of_memory(error)
    with pytest.warns(UserWarning) as caught:
        assert limit.run(device, 10, place=" at step 7", consequence=", still 20 a step", remedy="") == (
            "3 at a time"
        )
    assert device.asked == [10, 5, 3]  # halves are rounded up
    assert [str(warning.message) for warning in caught] == [
        "out of memory at step 7 with 10 pictures at a time: 5 at a time from here on, still 20 a step",
        "out of memory at step 7 with 5 pictures at a time: 3 at a time from here on, still 20 a step",
    ]
    assert limit.run(device, 10, remedy="") == "3 at a time" and limit.run(device, 2, remedy="")
    assert device.asked == [10, 5, 3, 3, 2] and limit.pictures == 3


@pytest.mark.parametrize(("least", "asked"), [(1, [4, 2, 1]), (4, [4])])
def test_where_the_least_is_too_much_one_sentence_says_what_to_do(least, asked, recwarn):
    device = Device(0)
    count = "1 picture" if least == 1 else "4 pictures"
    with pytest.raises(MemoryShortage, match=f"^out of memory with {count} at a time: take less$") as raised:
        BatchLimit().run(device, 4, least=least, remedy="take less")
    assert device.asked == asked and isinstance(raised.value.__cause__, torch.OutOfMemoryError)
    assert isinstance(raised.value, MemoryError)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory")])
def test_other_errors_are_raised_as_they_are(error):
    device = Device(1, error)
    with pytest.raises(type(error), match=str(error)):
        BatchLimit().run(device, 4, remedy="")
    assert device.asked == [4] and not is_out_of_memory(error)
