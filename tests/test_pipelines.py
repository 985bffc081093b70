"""Pipelines and models: the layouts of the real classes, every way to load them to the exact
content, and a third clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from benchmarks import test_pipeline_load as scenario
from harness.checkpoints.layout import Layout, TensorSpec
from harness.checkpoints.single_file_names import from_original, to_original
from harness.checkpoints.sources import layout_source
from harness.checkpoints.stable_diffusion import COMPONENTS, SHAPES, pipeline_layout
from harness.checkpoints.stable_diffusion_files import pipeline_files
from harness.checkpoints.store import Checkpoint, Store
from harness.errors import WeighbridgeError
from harness.loaders import MODEL, all_formats, all_loaders
from harness.measure.take_sample import Arm, Place, take_sample
from harness.records.cell import Cell
from harness.records.loader_keys import key_of
from harness.run.options import parse
from harness.scenarios import CacheState
from harness.workers.client import Server
from tests.helpers import installed

pytestmark = pytest.mark.slow

LIBRARIES = ("diffusers", "transformers", "accelerate")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    for library in LIBRARIES:
        installed(library)
    return Store(tmp_path_factory.mktemp("store"), formats=all_formats())


@pytest.fixture(scope="module")
def arms(store: Store) -> Iterator[dict[str, Arm]]:
    known = {
        name: (module, loader)
        for name, (module, loader) in all_loaders(MODEL).items()
        if "cpu" in loader.devices and loader.threads in (None, 4)
    }
    files = store.warm_up({loader.format for _, loader in known.values()})
    keys = {name: key_of(module, name, MODEL) for name, (module, _) in known.items()}
    with Server(
        {
            keys[name]: [str(file) for file in files[loader.format]]
            for name, (_, loader) in known.items()
        },
        ["torch"],
    ) as server:
        assert server.environment["absent"] == {}
        yield {
            name: Arm(keys[name], loader, "reference", server, files[loader.format])
            for name, (_, loader) in known.items()
        }


@pytest.fixture(scope="module")
def checkpoints(store: Store) -> dict[str, Checkpoint]:
    """Return the small pipeline in every format of one."""
    forms = sorted(
        {
            loader.format
            for _, loader in all_loaders(MODEL).values()
            if "pipeline" in loader.format or "single" in loader.format
        }
    )
    made = store.checkpoint(layout_source(pipeline_layout("warm-up-stable-diffusion"), 1), forms)
    return dict.fromkeys(forms, made)


@pytest.mark.parametrize("name", SHAPES)
def test_a_pipeline_s_layout_is_that_of_the_real_classes(name: str) -> None:
    """Made from the configurations that lie beside the weights, without memory: names, and shapes,
    to the last tensor.
    """

    diffusers, transformers = installed("diffusers"), installed("transformers")
    described = {
        part: json.loads(pipeline_files(name)[f"{part}/config.json"]) for part in COMPONENTS
    }
    with torch.device("meta"):
        models = {
            "unet": diffusers.UNet2DConditionModel.from_config(described["unet"]),
            "vae": diffusers.AutoencoderKL.from_config(described["vae"]),
            "text_encoder": transformers.CLIPTextModel(
                transformers.CLIPTextConfig(**described["text_encoder"])
            ),
        }
    real = {}
    for part, model in models.items():
        for tensor, value in model.state_dict().items():
            wrapped = part == "text_encoder" and not tensor.startswith("text_model.")
            real[f"{part}.{'text_model.' if wrapped else ''}{tensor}"] = tuple(value.shape)
    assert {tensor.name: tensor.shape for tensor in pipeline_layout(name).tensors} == real


def test_the_names_of_a_single_file_lead_back_to_those() -> None:
    tensors = {
        tensor.name: torch.randn(tensor.shape).to(torch.float16)
        for tensor in pipeline_layout("warm-up-stable-diffusion").tensors
    }
    original = to_original(tensors)
    assert "model.diffusion_model.input_blocks.0.0.weight" in original
    assert any(name.startswith("cond_stage_model.") for name in original)
    back = from_original(original, tensors)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


@pytest.mark.long
@pytest.mark.parametrize("state", ["cold", "warm"])
@pytest.mark.parametrize(
    "name", [name for name in all_loaders(MODEL) if name.startswith("diffusers")]
)
def test_a_pipeline_is_brought_up_to_the_exact_content_and_runs(
    checkpoints: dict[str, Checkpoint], arms: dict[str, Arm], name: str, state: CacheState
) -> None:
    checkpoint = checkpoints[arms[name].loader.format]
    cell = Cell(scenario.SCENARIO, checkpoint.name, state, "cpu")
    taken = take_sample(cell, checkpoint, arms[name], Place("a-run", 0, 0), timeout_s=120.0)
    assert taken.valid, taken.detail
    assert taken.returned_s is not None
    assert taken.ready_s is not None
    assert taken.module_ready_s is not None
    assert taken.returned_s < taken.ready_s < taken.module_ready_s


@pytest.mark.long
def test_wrong_weights_of_a_pipeline_are_found_out(
    store: Store, checkpoints: dict[str, Checkpoint], arms: dict[str, Arm]
) -> None:
    """The same arm, held to the checksums of another seed."""
    other = store.checkpoint(
        layout_source(pipeline_layout("warm-up-stable-diffusion"), 2), ["pipeline-safetensors"]
    )
    right = checkpoints["pipeline-safetensors"]
    mixed = Checkpoint(**{**vars(right), "checksums_file": other.checksums_file})
    cell = Cell(scenario.SCENARIO, right.name, "warm", "cpu")
    taken = take_sample(
        cell, mixed, arms["diffusers-safetensors"], Place("a-run", 0, 0), timeout_s=120.0
    )
    assert (taken.valid, taken.reason) == (False, "wrong-content")


def test_a_format_of_pipelines_refuses_what_is_none() -> None:
    layout = Layout("whole", (TensorSpec("a", "float16", (2, 2)),))
    for name, form in all_formats().items():
        if form.beside is not None:
            assert form.beside(layout.name) is None, name


def test_smoke_and_default_take_the_small_pipeline() -> None:
    taken = {
        profile: {cell.checkpoint for cell in scenario.plan(parse({"profile": profile}))}
        for profile in ("smoke", "default", "full")
    }
    assert taken["smoke"] == taken["default"] == {"small-stable-diffusion"}
    assert taken["full"] == {"small-stable-diffusion", "gpt2", "stable-diffusion-2.1"}
    every = {"profile": "full", "threads": "1,2,4,8,16"}
    arms = {arm for names in scenario.plan(parse(every)).values() for arm in names}
    assert arms == set(all_loaders(MODEL))


def test_threads_take_part_where_they_are_asked_for() -> None:
    def arms(**given: str) -> set[str]:
        plan = scenario.plan(parse({"checkpoints": "gpt2", "cache_states": "warm"} | given))
        return {arm for names in plan.values() for arm in names if "threads-" in arm}

    assert arms() == set()
    both = {"transformers-threads-8", "transformers-sharded-threads-8"}
    assert arms(threads="8") == both
    assert arms(threads="8", loaders="transformers-bin") == both
    assert arms(loaders="transformers-threads-2") == {"transformers-threads-2"}
    with pytest.raises(WeighbridgeError, match="--threads 3: there are loaders with 1, 2, 4"):
        arms(threads="3")
