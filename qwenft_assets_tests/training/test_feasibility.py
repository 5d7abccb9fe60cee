"""What a run will take, and when it is refused; memory against peaks measured on one H200."""

from typing import Any

import pytest

from qwenft_assets.config import (
    Config,
    LauncherConfig,
    MixtureConfig,
    Recipe,
    TrainingConfig,
    load_config,
)
from qwenft_assets.errors import BaseModelError, ConfigError, DeviceError, StorageError
from qwenft_assets.model.device import Device
from qwenft_assets.model.memory import plan_memory
from qwenft_assets.storage.files import write_json
from qwenft_assets.storage.root import Storage
from qwenft_assets.training import feasibility
from qwenft_assets.training.feasibility import in_one_line, require_feasible
from qwenft_assets.training.forecast import (
    SHAPES,
    base_shape,
    disk_gib,
    forecast,
    lora_parameters,
    smallest_card_gib,
    work_of,
)

QWEN = "Qwen/Qwen2.5-7B-Instruct"
H200 = Device("cuda", "NVIDIA H200", 139.0, 140.4)
CPU = Device("cpu", "cpu", 0, 0)


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def config_of(file="qwen2.5-7b.yaml", rows=None, **training):
    config = load_config(f"configs/{file}")
    own_engine = {"engine": "peft"} | training  # unsloth need not be installed here
    changed: dict[str, Any] = {"training": config.training.model_copy(update=own_engine)}
    if rows:
        large = config.mixture.recipes["large"].model_copy(update={"rows": rows})
        changed["mixture"] = config.mixture.model_copy(update={"recipes": {"large": large}})
    return config.model_copy(update=changed)


def test_option_b_is_81_000_steps_with_20_evaluations(storage):
    work = work_of(config_of(), "large", storage)
    assert (work.train_rows, work.eval_rows) == (216_000, 24_000)
    assert (work.steps, work.evaluations, work.rows_an_evaluation) == (81_000, 20, 512)
    assert work.train_tokens == pytest.approx(216_000 * 406 * 3, rel=1e-3)
    assert work.trainable_parameters == 40_370_176


def test_option_b_as_literally_written_is_refused_with_the_setting_to_change(storage):
    literal = config_of(max_evaluations=100_000, max_eval_rows=None)
    work = work_of(literal, "large", storage)
    assert (work.evaluations, work.rows_an_evaluation) == (1_620, 24_000)
    with pytest.raises(ConfigError) as raised:
        require_feasible(literal, "large", storage, H200)
    message = str(raised.value)
    assert message.startswith("1,620 evaluations of 24,000 rows while training would read 60 times")
    assert "training.max_eval_rows" in message
    assert "training.max_evaluations" in message


def test_the_mixtures_own_figures_take_the_place_of_assumptions(storage):
    folder = storage.mixed_dataset("large")
    write_json(folder / "manifest.json", {"train_rows": 900, "eval_rows": 100})
    figures = {"all": {"rows": 1000, "tokens": 250_000, "max": 700}}
    write_json(folder / "lengths.json", {"max_length_tokens": 2048, "by_source": figures})
    work = work_of(config_of(), "large", storage)
    assert (work.train_rows, work.eval_rows) == (900, 100)
    assert (work.tokens_a_row, work.longest_row_tokens) == (250, 700)
    assert [word for word in work.assumptions if "rows" in word] == []


def test_packs_make_fewer_steps_of_more_tokens(storage):
    work = work_of(config_of("qwen2.5-7b-fast.yaml"), "large", storage)
    assert work.steps < 81_000 / 4
    assert work.step_tokens == pytest.approx(0.97 * 16_384, rel=0.01)


@pytest.mark.parametrize(
    ("file", "cap_gib", "step_tokens", "measured_gib"),
    [
        # benchmarks/RESULTS.md, "Training throughput"; tokens of a step: docs/LOG.md.
        pytest.param("qwen2.5-7b.yaml", None, 3_523, 38.2, id="original"),
        pytest.param("qwen2.5-7b.yaml", 24, 3_523, 21.1, id="original-24GiB"),
        pytest.param("qwen2.5-7b.yaml", 10, 3_523, 8.8, id="original-10GiB"),
        pytest.param("qwen2.5-7b-fast.yaml", None, 15_581, 90.3, id="fast"),
    ],
)
def test_the_estimate_of_memory_is_within_15_percent_of_measured_peaks(
    file, cap_gib, step_tokens, measured_gib
):
    settings = config_of(file).training
    shape = SHAPES[QWEN]
    trainable = lora_parameters(shape, settings.lora)
    plan = plan_memory(shape, settings, trainable, step_tokens, 1_024, cap_gib or 139.0)
    assert plan.peak_gib == pytest.approx(measured_gib, rel=0.15)


def test_a_small_card_is_refused_and_the_smallest_that_will_do_is_named(storage):
    config = config_of()
    smallest = smallest_card_gib(work_of(config, "large", storage), config.training)
    assert smallest is not None
    assert 8 < smallest < 10
    just_enough = Device("cuda", "a card", smallest, smallest)
    require_feasible(config_of(max_hours=10_000), "large", storage, just_enough)
    too_small = Device("cuda", "a card", smallest - 0.2, smallest)
    with pytest.raises(DeviceError, match="GiB of GPU memory with passes of one row"):
        require_feasible(config, "large", storage, too_small)


def test_the_original_recipe_asks_for_unsloth_by_one_line(storage, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DeviceError) as raised:
        require_feasible(load_config("configs/qwen2.5-7b.yaml"), "large", storage, H200)
    message = str(raised.value)
    assert message.startswith(
        "training.engine: unsloth is not installed here. Install it with `pip"
    )
    assert message.endswith("or set training.engine to peft, this project's own.")
    assert "\n" not in message


def test_a_run_of_months_is_refused(storage):
    slow = config_of("qwen2.5-7b-fast.yaml", device="cpu")
    with pytest.raises(ConfigError, match=r"would take [\d,]+ days at .*training\.max_hours is 72"):
        require_feasible(slow, "large", storage, CPU)


def test_the_speed_is_that_of_the_last_run_here(storage, tiny_model):
    config = config_of("demo.yaml", base_model=str(tiny_model))
    work = work_of(config, "small", storage)
    assumed = forecast(work, config.training, storage, CPU)
    assert assumed.speed.known_from.startswith("assumed: ")
    record = {
        "version": "abc",
        "base_model": work.base.name,
        "batching": "flattened",
        "memory_plan": None,
        "device": "x86_64",
        "tokens_per_second": 500.0,
    }
    write_json(storage.adapter("small", "abc") / "training.json", record)
    measured = forecast(work, config.training, storage, CPU)
    assert measured.speed.tokens_per_second == 500
    assert measured.speed.known_from == "measured: run abc"
    tokens = work.train_tokens + work.evaluation_tokens / 2
    assert measured.hours == pytest.approx(tokens / 500 / 3600)
    assert "at 500 tokens/s (measured: run abc)" in in_one_line(work, measured)


def test_a_disk_without_room_is_refused_with_what_is_missing(storage, monkeypatch):
    monkeypatch.setattr(Storage, "free_gib", lambda self: 5.0)
    config = config_of(max_hours=10_000)
    with pytest.raises(StorageError, match=r"5\.0 GiB free, a large run needs 1\d\.\d\. Free 1\d"):
        require_feasible(config, "large", storage, H200)
    assert disk_gib(work_of(config, "large", storage), config.training, storage)["base model"] > 14


def test_shapes_are_read_from_a_models_config(tiny_model, storage):
    config = config_of("demo.yaml", base_model=str(tiny_model))
    shape = base_shape(work_of(config, "small", storage).base)
    assert (shape.layers, shape.hidden, shape.intermediate) == (2, 32, 64)
    assert (shape.query_width, shape.key_width) == (32, 16)


def test_an_unknown_model_out_of_reach_is_named(storage):
    with pytest.raises(BaseModelError, match=r"^nobody/nothing: not in the local cache"):
        work_of(config_of(base_model="nobody/nothing"), "large", storage)


def test_the_recipe_need_not_be_a_shipped_one(storage, tiny_model):
    config = Config(
        name="own",
        mixture=MixtureConfig(recipes={"small": Recipe(rows=4, ratios={"slimorca": 1.0})}),
        training=TrainingConfig(base_model=str(tiny_model), weights="fp32", device="cpu"),
    )
    work, on_cpu = require_feasible(config, "small", storage, CPU)
    assert work.steps >= 1
    assert on_cpu.memory is None


SMALL_GPU = Device("cuda", "a card", 12.0, 12.4)


def launched(config, kind="accelerate"):
    launcher = LauncherConfig.model_validate({"kind": kind, "processes": 4})
    return config.model_copy(update={"launcher": launcher})


def test_what_does_not_fit_a_gpu_is_sharded_over_those_of_the_launcher(storage, monkeypatch):
    monkeypatch.setattr(feasibility, "find_gpus", lambda: [SMALL_GPU] * 4)
    config = launched(config_of(weights="bf16", max_hours=10_000))
    _, found = require_feasible(config, "large", storage, SMALL_GPU)
    assert found.memory is not None
    assert found.memory.shards == 4
    work = work_of(config, "large", storage)
    whole, sharded = (smallest_card_gib(work, config.training, n) for n in (1, 4))
    assert whole is not None
    assert sharded is not None
    assert sharded < whole - 6


@pytest.mark.parametrize(
    ("launcher", "settings", "advice"),
    [
        pytest.param(
            LauncherConfig(),
            {"weights": "bf16"},
            "set launcher.kind to accelerate and launcher.processes to 4.",
            id="one-process",
        ),
        pytest.param(
            LauncherConfig(kind="accelerate", processes=4),
            {"weights": "bf16", "shard_base_weights": False, "batching": "padded"},
            "set training.batching to flattened, training.shard_base_weights to auto.",
            id="switched-off",
        ),
        pytest.param(
            LauncherConfig(kind="accelerate", processes=4),
            {"weights": "nf4", "gradient_checkpointing": False},
            None,
            id="that-would-not-help",
        ),
    ],
)
def test_the_refusal_says_what_to_set_so_that_several_gpus_hold_the_model(
    storage, monkeypatch, launcher, settings, advice
):
    monkeypatch.setattr(feasibility, "find_gpus", lambda: [SMALL_GPU] * 4)
    config = config_of(**settings).model_copy(update={"launcher": launcher})
    with pytest.raises(DeviceError) as raised:
        require_feasible(config, "large", storage, SMALL_GPU)
    message = str(raised.value)
    assert "\n" not in message
    if advice is None:
        assert "GPUs hold the weights together" not in message
    else:
        assert message.endswith(f"Or have 4 GPUs hold the weights together: {advice}")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        pytest.param("local", {}, "one process trains. Set launcher.kind", id="one-process"),
        pytest.param(
            *("accelerate", {"weights": "nf4"}),
            r"training.weights is nf4: .* Set training.weights to bf16, or",
            id="4-bit",
        ),
        pytest.param(
            *("accelerate", {"batching": "padded"}),
            "training.batching is padded: .* Set training.batching to flattened, or",
            id="padded",
        ),
    ],
)
def test_sharding_that_another_setting_rules_out_is_refused(storage, kind, settings, message):
    asked = {"weights": "bf16", "device": "cpu", "shard_base_weights": True, **settings}
    with pytest.raises(ConfigError, match=message):
        require_feasible(launched(config_of(**asked), kind), "large", storage, CPU)
