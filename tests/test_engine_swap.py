"""Start now, swap later: on a real server that never stops drawing, with ONNX Runtime on both sides."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from studio.client import RawResult, TritonClient
from studio.engines import trial
from studio.engines.cache import EngineCache
from studio.engines.entry import Entry, Facts, plan_name
from studio.engines.key import Profile, Target
from studio.engines.order import Order, orders
from studio.engines.swap import Swapper, objection
from studio.engines.trial import HERE, Difference, Disturbed, Outcome, Python
from studio.errors import BuildError, ServerError
from studio.report import Report, silent
from studio.request import ImageRequest
from studio.server.embedded import Embedded
from studio.server.repository import Repository
from studio.server.supervise import Supervisor
from tests.patience import eventually
from triton_models.diffusion.manifest import Engine

SIZE = Profile.fixed(1, 8, 8)
SECONDS = 90.0
COMPONENTS = ("text_encoder", "vae_encoder", "vae_decoder", "denoiser")


@dataclass
class OnnxMaker:
    """A workshop whose engines are ONNX files for ONNX Runtime: copies of those in ``folder``."""

    cache: EngineCache
    folder: Path
    precision: str
    python: Python = HERE
    made: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    fails: str = ""
    fails_for: str = ""

    def orders(self, model_folder: Path, profile: Profile) -> list[Order]:
        return orders(model_folder, Target("onnxruntime", "1", "cpu", self.precision), profile)

    def obtain(
        self, order: Order, report: Report, cancel: threading.Event, busy: Callable[[], bool]
    ) -> tuple[Entry, tuple[str, ...]]:
        self.made.append(order.component.name)
        if self.fails:
            raise BuildError(self.fails)
        if order.component.name == self.fails_for:
            raise ZeroDivisionError("a bug")
        report(f"Building the {order.title}", 0.5)
        found = self.cache.look_up(order.key)
        if isinstance(found, Entry):
            return found, ()
        with self.cache.alone(order.key, report, cancel), self.cache.staging(order.key) as folder:
            shutil.copyfile(self.folder / order.onnx.name, folder / plan_name(order.key))
            return self.cache.keep(folder, order.key, Facts()), self.notes


@dataclass
class Service:
    """Stands where no server is needed: remembers what it was told to serve."""

    repository: Repository
    swaps: list[tuple[str, list[str]]] = field(default_factory=list)

    def swap(self, component: str, engines: list[Engine]) -> None:
        self.repository.engines = {**self.repository.engines, component: tuple(engines)}
        self.swaps.append((component, [engine.label for engine in engines]))


def serving(precision: str) -> dict[str, list[Engine]]:
    return {name: [Engine("onnxruntime", f"{name}.onnx", precision)] for name in COMPONENTS}


def never() -> bool:
    return False


@pytest.fixture
def maker(tmp_path: Path, exported: Path) -> OnnxMaker:
    return OnnxMaker(EngineCache(tmp_path / "engine_cache"), exported, "bf16")


@pytest.fixture(scope="session")
def slow_export(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint, each graph with work that changes nothing."""
    folder = tmp_path_factory.mktemp("slow") / "model"
    shutil.copytree(exported, folder)
    for name in COMPONENTS:
        _burden(folder / f"{name}.onnx")
    return folder


def _burden(file: Path, products: int = 6, width: int = 768) -> None:
    """Add a chain of matrix products to a graph and its end, times nothing, to the first output."""
    model = onnx.load(str(file))
    graph, output = model.graph, model.graph.output[0]
    for node in graph.node:
        node.output[:] = ["plain" if name == output.name else name for name in node.output]
        node.input[:] = ["plain" if name == output.name else name for name in node.input]
    zeros = np.zeros((width, width), np.float32)
    graph.initializer.append(numpy_helper.from_array(zeros, "zeros"))
    make = helper.make_node
    graph.node.extend(
        [
            make("Cast", [graph.input[0].name], ["as_float"], to=TensorProto.FLOAT),
            make("ReduceSum", ["as_float"], ["sum"], keepdims=0),
            make("Add", ["zeros", "sum"], ["product_0"]),
            *(make("MatMul", [f"product_{i}", "zeros"], [f"product_{i + 1}"]) for i in range(products)),
            make("ReduceMax", [f"product_{products}"], ["nothing"], keepdims=0),
            make("Cast", ["nothing"], ["as_output"], to=output.type.tensor_type.elem_type),
            make("Add", ["plain", "as_output"], [output.name]),
        ]
    )
    onnx.save(model, str(file))


@pytest.fixture
def slow_service(tmp_path: Path, slow_export: Path) -> Service:
    """Serves the slow graphs. The precision is but a name here, to tell the two sides apart."""
    return Service(Repository(slow_export, serving("fp32"), tmp_path / "compiled"))


# -- the whole way, under load -------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.timeout(300)
def test_engines_come_into_service_while_pictures_are_drawn_and_none_fails(
    embedded_platform: None, slow_export: Path, maker: OnnxMaker, tmp_path: Path
) -> None:
    repository = Repository(slow_export, serving("fp32"), tmp_path / "compiled", threads=1)
    told: list[str] = []
    with Supervisor(Embedded(repository, tmp_path / "logs")) as supervisor:
        supervisor.start(silent)
        with (
            _load(supervisor) as load,
            Swapper(maker, lambda _: maker.folder, [supervisor], never, told.append) as swapper,
        ):
            assert eventually(lambda: len(load.engines) >= 2, SECONDS)
            swapper.want(SIZE)
            assert eventually(
                lambda: (
                    maker.made == ["denoiser", "text_encoder", "vae_encoder", "vae_decoder"]
                    and not swapper.status.message
                ),
                SECONDS,
            )
            after = len(load.engines)
            assert eventually(lambda: len(load.engines) >= after + 2, SECONDS)
    assert load.failures == []
    assert load.engines[0] == "onnxruntime fp32"
    assert load.engines[-1] == "onnxruntime bf16"  # the page shows which engine made each picture
    assert "The denoiser engine for 64 × 64, batch 1 is in service." in told
    assert supervisor.repository.engines["denoiser"][0].key.startswith("denoiser-")
    assert [entry.facts.latency_ms is not None for entry in maker.cache.entries()] == [True] * 4


@dataclass
class Load:
    """Pictures drawn one after another, and what became of each."""

    engines: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)


class _load:
    """Draws without a pause from two clients while the block runs."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._address = supervisor.endpoint.address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._draw, args=(seed,)) for seed in range(2)]
        self._load = Load()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self._load

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _draw(self, seed: int) -> None:
        client = TritonClient(self._address)
        request = ImageRequest("a boat", steps=2, width=64, height=64, seed=seed)
        while not self._stop.is_set():
            try:
                *_, result = client.generate(request, threading.Event())
                assert isinstance(result, RawResult)
                self._load.engines.append(result.engine)
            except Exception as error:
                self._load.failures.append(error)
        client.close()


# -- the gate ------------------------------------------------------------------------------------------


def test_a_faster_engine_with_the_same_pictures_is_served_before_the_others(
    maker: OnnxMaker, slow_service: Service
) -> None:
    told: list[str] = []
    with Swapper(maker, lambda _: maker.folder, [slow_service], never, told.append) as swapper:
        swapper.want(SIZE)
        assert eventually(lambda: any("vae decoder" in line for line in told), SECONDS)
    swaps = dict(slow_service.swaps)
    assert swaps["denoiser"] == ["onnxruntime bf16", "onnxruntime fp32"]


def test_an_engine_that_draws_something_else_is_rejected_for_good(
    maker: OnnxMaker, slow_service: Service, tmp_path: Path
) -> None:
    maker.folder = tmp_path / "other"
    shutil.copytree(Path(slow_service.repository.model_folder), maker.folder)
    _spoil(maker.folder / "vae_decoder.onnx")
    order = maker.orders(maker.folder, SIZE)[3]
    told: list[str] = []
    for _start in range(2):
        with Swapper(maker, lambda _: maker.folder, [slow_service], never, told.append) as swapper:
            swapper.want(SIZE)
            assert eventually(lambda: "The new vae decoder" in (told or [""])[-1], SECONDS)
        assert "is not used: its pictures differ by" in told.pop()
    assert "vae_decoder" not in dict(slow_service.swaps)
    found = maker.cache.look_up(order.key)
    assert isinstance(found, Entry)
    assert "differ" in found.facts.rejected


def _spoil(file: Path) -> None:
    """Turn every bias around."""
    model = onnx.load(str(file))
    for tensor in model.graph.initializer:
        if tensor.name.endswith("bias"):
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(-values - 1), tensor.name))
    onnx.save(model, str(file))


OLD = Engine("onnxruntime", "denoiser.onnx", "fp32")


@pytest.mark.parametrize(
    ("milliseconds", "apart", "words"),
    [
        ((5.0, 50.0), Difference(1.0, 0.01), ""),
        ((60.0, 50.0), Difference(0.0, 0.0), "it is slower than onnxruntime fp32 (60.0 ms against 50.0)"),
        ((5.0, 50.0), Difference(30.0, 0.0), "its pictures differ by 30.0 of 255"),
        ((5.0, 50.0), Difference(0.0, 0.5), "its numbers differ by 50%"),
    ],
)
def test_the_gate(milliseconds: tuple[float, float], apart: Difference, words: str) -> None:
    said = objection(Outcome(milliseconds, (apart,)), OLD)
    assert words in said
    assert bool(said) == bool(words)


# -- its manners ---------------------------------------------------------------------------------------


def test_nothing_starts_while_someone_draws(maker: OnnxMaker, slow_service: Service) -> None:
    drawing = threading.Event()
    drawing.set()
    with Swapper(maker, lambda _: maker.folder, [slow_service], drawing.is_set) as swapper:
        swapper.want(SIZE)
        time.sleep(1.5)
        assert maker.made == []
        drawing.clear()
        assert eventually(lambda: bool(maker.made), SECONDS)


def test_a_trial_is_given_up_when_someone_draws(maker: OnnxMaker) -> None:
    order = maker.orders(maker.folder, SIZE)[3]
    with pytest.raises(Disturbed):
        trial.run(order, [OLD], maker.cache, disturbed=lambda: True)


def test_closing_ends_the_work(maker: OnnxMaker, slow_service: Service) -> None:
    with Swapper(maker, lambda _: maker.folder, [slow_service], lambda: True) as swapper:
        swapper.want(SIZE)
        time.sleep(0.2)
    assert maker.made == []


def test_a_failed_build_is_told_and_the_next_size_is_still_made(
    maker: OnnxMaker, slow_service: Service
) -> None:
    told: list[str] = []
    maker.fails = "The GPU has too little free memory."
    with Swapper(maker, lambda _: maker.folder, [slow_service], never, told.append) as swapper:
        swapper.want(SIZE)
        assert eventually(lambda: bool(told), SECONDS)
        maker.fails = ""
        swapper.want(Profile.fixed(1, 16, 8))
        assert eventually(lambda: bool(slow_service.swaps), SECONDS)
    assert told[0] == "The GPU has too little free memory."
    assert swapper.offer(1, 8, 8) == SIZE  # what failed may be tried again


def test_one_engine_that_fails_does_not_keep_the_others(maker: OnnxMaker, slow_service: Service) -> None:
    told: list[str] = []
    maker.fails_for = "denoiser"
    with Swapper(maker, lambda _: maker.folder, [slow_service], never, told.append) as swapper:
        swapper.want(SIZE)
        assert eventually(lambda: len(told) == 4, SECONDS)
    assert told[0] == "An engine for 64 × 64, batch 1 was given up (a bug); the log says more. " + (
        "Pictures are made as before."
    )
    assert set(dict(slow_service.swaps)) == {"text_encoder", "vae_encoder", "vae_decoder"}


def test_a_server_that_refuses_the_swap_is_told(maker: OnnxMaker, slow_service: Service) -> None:
    told: list[str] = []

    def refuse(component: str, engines: list[Engine]) -> None:
        raise ServerError("The server could not do it.")

    slow_service.swap = refuse  # type: ignore[method-assign]
    with Swapper(maker, lambda _: maker.folder, [slow_service], never, told.append) as swapper:
        swapper.want(SIZE)
        assert eventually(lambda: "The server could not do it." in told, SECONDS)
        assert eventually(lambda: not swapper.status.message, SECONDS)


def test_a_size_without_an_engine_is_offered_until_it_has_one(
    maker: OnnxMaker, slow_service: Service
) -> None:
    swapper = Swapper(maker, lambda _: maker.folder, [slow_service], never)
    assert swapper.offer(1, 64, 64) == Profile.fixed(
        1, 64, 64
    )  # plain ONNX runs it, and an engine would be faster
    made = Engine("tensorrt", "x.plan", "fp16", "denoiser-sm89-x", (1, 1), (64, 64), (64, 64))
    slow_service.swap("denoiser", [made, OLD])
    assert swapper.offer(1, 64, 64) is None
    other = replace(made, key="denoiser-sm89-y", height=(8, 8), width=(8, 8))
    slow_service.swap("denoiser", [other, made, OLD])
    assert swapper.offer(1, 64, 64) is None
    assert swapper.offer(1, 96, 64) == Profile.fixed(1, 96, 64)
    swapper.want(Profile.fixed(1, 96, 64))
    assert swapper.offer(1, 96, 64) is None  # under way
