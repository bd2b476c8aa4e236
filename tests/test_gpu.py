"""What the studio makes of the GPUs that NVML tells of, with machines faked at the NVML seam."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from studio import gpu
from studio.engines import flavour
from studio.engines.flavour import TENSORRT, TENSORRT_RTX, Installed
from studio.engines.key import Target
from studio.errors import SettingsError

GIB = gpu.GIB


@dataclass
class Card:
    """A device as NVML would describe it; ``slices`` are MIG slots, None an empty one."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int
    uuid: str = "GPU-00000000-1111"
    mig: bool | None = None  # None: NotSupported, as on GeForce
    slices: list[Card | None] = field(default_factory=list)
    lost: bool = False


@dataclass
class FakeNvml:
    """The part of pynvml that detection calls."""

    cards: list[Card] = field(default_factory=list)
    driver: str = "580.95.05"
    cuda: int = 13000
    fails: int | None = None
    old: bool = False  # a driver without version 2 of the memory query
    nvmlMemory_v2: int = 2
    open: int = 0

    def nvmlInit(self) -> None:
        if self.fails is not None:
            raise pynvml.NVMLError(self.fails)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return self.driver

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        if self.cards[index].lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.cards[index]

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetUUID(self, card: Card) -> str:
        return card.uuid

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetMemoryInfo(self, card: Card, version: int | None = None) -> Any:
        if version is not None and self.old:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return SimpleNamespace(total=card.total, free=card.free)

    def nvmlDeviceGetMigMode(self, card: Card) -> tuple[int, int]:
        if card.mig is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(card.mig), int(card.mig)

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return len(card.slices)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, slot: int) -> Card:
        part = card.slices[slot]
        if part is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return part


RTX_2060 = Card("NVIDIA GeForce RTX 2060", (7, 5), 6 * GIB, 5 * GIB, "GPU-2060aaaa-0001")
RTX_3060_LAPTOP = Card("NVIDIA GeForce RTX 3060 Laptop GPU", (8, 6), 6 * GIB, 5 * GIB, "GPU-3060aaaa-0001")
RTX_4090 = Card("NVIDIA GeForce RTX 4090", (8, 9), 24 * GIB, 22 * GIB, "GPU-4090aaaa-0001")
RTX_5090 = Card("NVIDIA GeForce RTX 5090", (12, 0), 32 * GIB, 30 * GIB, "GPU-5090aaaa-0001")
H200 = Card("NVIDIA H200", (9, 0), 141 * GIB, 140 * GIB, "GPU-h200aaaa-0001", mig=False)
GTX_1660 = Card("NVIDIA GeForce GTX 1660 SUPER", (7, 5), 6 * GIB, 5 * GIB)
GTX_1080 = Card("NVIDIA GeForce GTX 1080", (6, 1), 8 * GIB, 7 * GIB)
A100_MIG = Card(
    "NVIDIA A100-SXM4-40GB",
    (8, 0),
    40 * GIB,
    39 * GIB,
    "GPU-a100aaaa-0001",
    mig=True,
    slices=[
        Card("NVIDIA A100-SXM4-40GB MIG 3g.20gb", (8, 0), 20 * GIB, 19 * GIB, "MIG-aaaaaaaa-0001"),
        None,
        Card("NVIDIA A100-SXM4-40GB", (8, 0), 5 * GIB, 4 * GIB, "MIG-bbbbbbbb-0002"),
    ],
)


def one(card: Card, **more: Any) -> gpu.Gpu:
    (found,) = gpu.detect(FakeNvml([card], **more), wsl=False).gpus
    return found


@pytest.mark.parametrize(
    ("code", "wsl", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, False, "no NVIDIA driver is installed"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, True, "install the current one in Windows"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, False, "upgraded since; restart"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, False, "not loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, False, "this user may not"),
        (pynvml.NVML_ERROR_UNKNOWN, False, "the NVIDIA driver answered"),
    ],
)
def test_a_failing_driver_is_no_gpu_with_the_reason(code: int, wsl: bool, words: str) -> None:
    found = gpu.detect(FakeNvml(fails=code), wsl=wsl)
    assert found.gpus == ()
    assert words in found.reason
    assert str(found).startswith("No GPU, because ")


def test_this_machine_is_detected_without_raising() -> None:
    found = gpu.detect()
    assert found.gpus or found.reason


@pytest.mark.parametrize(
    ("card", "compute"),
    [(RTX_2060, "7.5"), (RTX_3060_LAPTOP, "8.6"), (RTX_4090, "8.9"), (RTX_5090, "12.0"), (H200, "9.0")],
)
def test_a_card_is_described(card: Card, compute: str) -> None:
    nvml = FakeNvml([card])
    (found,) = gpu.detect(nvml, wsl=False).gpus
    assert (found.name, found.uuid, found.compute) == (card.name, card.uuid, compute)
    assert (found.memory_total, found.memory_free) == (card.total, card.free)
    assert (found.driver, found.cuda, found.mig, found.wsl) == ("580.95.05", (13, 0), False, False)
    assert card.name in str(found)
    assert "CUDA 13.0" in str(found)
    assert nvml.open == 0


def test_an_old_driver_without_the_new_memory_query_still_tells_its_memory() -> None:
    assert one(RTX_2060, old=True).memory_free == 5 * GIB


def test_mig_gives_its_slices_and_never_the_whole() -> None:
    found = gpu.detect(FakeNvml([A100_MIG]), wsl=False)
    assert [each.uuid for each in found.gpus] == ["MIG-aaaaaaaa-0001", "MIG-bbbbbbbb-0002"]
    assert [each.memory_total for each in found.gpus] == [20 * GIB, 5 * GIB]
    assert all(each.mig and each.capability == (8, 0) for each in found.gpus)
    assert found.gpus[1].name == "NVIDIA A100-SXM4-40GB MIG 5gb"


def test_mig_without_a_slice_is_said() -> None:
    bare = Card("NVIDIA A100-SXM4-40GB", (8, 0), 40 * GIB, 39 * GIB, mig=True)
    found = gpu.detect(FakeNvml([bare]), wsl=False)
    assert found.gpus == ()
    assert "MIG on and no slice" in found.reason


def test_a_lost_card_does_not_hide_its_neighbour() -> None:
    lost = Card("x", (8, 6), 0, 0, lost=True)
    found = gpu.detect(FakeNvml([lost, RTX_4090]), wsl=False)
    assert [each.index for each in found.gpus] == [1]
    assert "fallen off the bus" in found.notes[0]
    assert found.reason == ""


def test_a_vanished_gpu_refreshes_to_none_and_a_living_one_to_its_free_memory() -> None:
    before = one(RTX_4090)
    fuller = Card(RTX_4090.name, RTX_4090.capability, RTX_4090.total, GIB, RTX_4090.uuid)
    after = gpu.refresh(before, FakeNvml([fuller]))
    assert after is not None
    assert after.memory_free == GIB
    assert gpu.refresh(before, FakeNvml([Card("x", (8, 9), 0, 0, lost=True)])) is None


def test_choosing_among_two_unlike_gpus() -> None:
    found = gpu.detect(FakeNvml([RTX_3060_LAPTOP, RTX_4090]), wsl=False)
    small, big = found.gpus
    assert gpu.choose(found) == (big,)
    assert gpu.choose(found, "0") == (small,)
    assert gpu.choose(found, "GPU-3060aaaa") == (small,)
    assert gpu.choose(found, "all") == (big,)  # engines are made for one kind


def test_choosing_all_of_several_alike() -> None:
    twin = replace(RTX_4090, uuid="GPU-4090aaaa-0002")
    first, _, second = found = gpu.detect(FakeNvml([RTX_4090, RTX_3060_LAPTOP, twin]), wsl=False).gpus
    assert gpu.choose(gpu.Detection(found), "all") == (first, second)
    assert gpu.choose(gpu.Detection(found)) == (first,)


def test_a_child_sees_only_the_chosen_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    seen = gpu.environment(gpu.detect(FakeNvml([RTX_3060_LAPTOP, RTX_4090]), wsl=False).gpus)
    assert seen["CUDA_VISIBLE_DEVICES"] == "GPU-3060aaaa-0001,GPU-4090aaaa-0001"
    assert seen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert gpu.environment(())["CUDA_VISIBLE_DEVICES"] == "7"


@pytest.mark.parametrize("wanted", ["2", "GPU-nothere", "G", ""])
def test_a_gpu_that_is_not_there_is_refused_with_what_is(wanted: str) -> None:
    found = gpu.detect(FakeNvml([RTX_3060_LAPTOP, RTX_4090]), wsl=False)
    with pytest.raises(SettingsError, match="RTX 4090"):
        gpu.choose(found, wanted)


def test_choosing_where_there_is_none() -> None:
    nothing = gpu.detect(FakeNvml(fails=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND), wsl=False)
    assert gpu.choose(nothing) == ()
    assert gpu.choose(nothing, "all") == ()
    with pytest.raises(SettingsError, match="no NVIDIA driver"):
        gpu.choose(nothing, "0")


BOTH = {TENSORRT: Installed("11.3.0.99", 13), TENSORRT_RTX: Installed("1.7.1.116", 13)}
ONLY_RTX = {TENSORRT_RTX: BOTH[TENSORRT_RTX]}


@pytest.mark.parametrize(
    ("card", "have", "expected", "precision"),
    [
        (RTX_2060, {}, TENSORRT_RTX, "fp16"),
        (RTX_3060_LAPTOP, {}, TENSORRT_RTX, "fp16"),
        (RTX_4090, BOTH, TENSORRT, "fp16"),
        (RTX_4090, ONLY_RTX, TENSORRT_RTX, "fp16"),
        (RTX_5090, ONLY_RTX, TENSORRT_RTX, "fp16"),
        (H200, {}, TENSORRT, "fp16"),
        (H200, ONLY_RTX, TENSORRT, "fp16"),  # TensorRT-RTX has no Hopper
        (A100_MIG.slices[0], {}, TENSORRT, "fp16"),
        (GTX_1660, {}, TENSORRT_RTX, "fp32"),  # black pictures in fp16
        (GTX_1080, BOTH, "", "fp32"),
    ],
)
def test_flavour_and_precision_suit_the_card(
    card: Card, have: dict[str, Installed], expected: str, precision: str
) -> None:
    choice = flavour.choose(one(card), have=have)
    assert (choice.flavour, choice.precision) == (expected, precision)
    assert choice.flavour_reason
    assert choice.precision_reason
    assert choice.version == (have[expected].version if expected in have else "")
    assert bool(choice.missing) == (bool(expected) and expected not in have)


@pytest.mark.parametrize(("card", "wide"), [(RTX_4090, "bf16"), (H200, "bf16"), (RTX_2060, "fp32")])
def test_what_leaves_fp16_takes_bf16_where_the_card_has_it(card: Card, wide: str) -> None:
    gpu = one(card)
    choice = flavour.choose(gpu, have={})
    assert Target.of(gpu, choice).wide_precision == wide
    assert choice.precision_reason.endswith(f"what leaves its range is done in {wide}")
    assert Target(TENSORRT, "8.6.0", gpu.compute, "fp16").wide_precision == "fp32"  # it knows no bf16


def test_an_old_driver_leaves_what_its_cuda_runs() -> None:
    card = one(RTX_4090, driver="535.54", cuda=12020)
    choice = flavour.choose(card, have={})
    assert choice.flavour == ""
    assert "driver 580 or newer" in choice.flavour_reason
    for_cuda_12 = {TENSORRT: Installed("8.6.0", 12)}
    assert flavour.choose(card, have=for_cuda_12).flavour == TENSORRT


@pytest.mark.parametrize(
    ("card", "wanted", "words"),
    [
        (H200, TENSORRT_RTX, "no engine for compute capability 9.0"),
        (GTX_1080, TENSORRT, "needs 7.5"),
        (None, TENSORRT, "there is no NVIDIA GPU"),
    ],
)
def test_a_flavour_that_cannot_run_is_refused(card: Card | None, wanted: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        flavour.choose(one(card) if card else None, wanted, have=BOTH)


def test_without_a_gpu_the_cpu_serves() -> None:
    choice = flavour.choose(None, have=BOTH)
    assert (choice.flavour, choice.missing) == ("", "")
    assert "CPU" in choice.flavour_reason
