"""The files of deploy/, read by the programs that they are for, as far as these run without a cluster."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig

from qwenft_assets.automation.jobs import make_executor
from qwenft_assets.config import PROJECT_ROOT, AutomationConfig, Config
from qwenft_assets.errors import ConfigError

DEPLOY = PROJECT_ROOT / "deploy"
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def values():
    return yaml.safe_load((DEPLOY / "values.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def deployment(values):
    (found,) = values["dagster-user-deployments"]["deployments"]
    return found


def test_hadolint_finds_nothing_in_the_dockerfile():
    found = subprocess.run(
        [BIN / "hadolint", "--failure-threshold", "style", DEPLOY / "Dockerfile"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr


def test_everything_the_dockerfile_copies_is_let_through_and_there():
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    allowed = (PROJECT_ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert len(copied) >= 7
    for name in copied:
        assert (PROJECT_ROOT / name).exists(), name
        assert any(f"!{name}/".startswith(f"{entry}/") for entry in allowed), name
    assert not any("my_dataset" in entry or entry == "!data" for entry in allowed)


def test_every_extra_that_the_image_installs_is_one():
    import tomllib

    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    extras = text.partition("-e '.[")[2].partition("]")[0].split(",")
    assert {"k8s", "s3"} <= set(extras) <= set(project["optional-dependencies"])


def test_the_limits_are_those_of_the_local_instance(values):
    path = PROJECT_ROOT / "dagster_home" / "dagster.yaml"
    local = yaml.safe_load(path.read_text(encoding="utf-8"))
    ours = values["additionalInstanceConfig"]
    assert ours["concurrency"] == local["concurrency"]
    assert ours["run_monitoring"] == {**local["run_monitoring"], "start_timeout_seconds": 900}


def test_dagster_takes_the_instance_settings_beside_the_launcher(values, tmp_path):
    """As the chart writes them into dagster.yaml: additionalInstanceConfig word for word."""
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    settings = {
        **values["additionalInstanceConfig"],
        "telemetry": values["telemetry"],
        "run_launcher": {
            "module": "dagster_k8s",
            "class": "K8sRunLauncher",
            "config": {
                "service_account_name": "dagster",
                "instance_config_map": "dagster-instance",
                "postgres_password_secret": values["global"]["postgresqlSecretName"],
                "dagster_home": "/opt/dagster/dagster_home",
                "load_incluster_config": False,
                "kubeconfig_file": str(empty_kubeconfig(tmp_path)),
                "image_pull_policy": launcher["imagePullPolicy"],
                "run_k8s_config": snake_keys(launcher["runK8sConfig"]),
            },
        },
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.run_launcher).__name__ == "K8sRunLauncher"
        limits = instance.get_concurrency_config()
        assert limits.pool_config.default_pool_limit == 1


def test_kubernetes_client_takes_what_pods_are_given(values, deployment):
    """Unknown fields of Kubernetes' own objects are an error there."""
    launcher = values["runLauncher"]["config"]["k8sRunLauncher"]
    context = K8sContainerContext.create_from_config(
        {
            "k8s": {
                "env_vars": [f"{name}={value}" for name, value in deployment["env"].items()],
                "env_secrets": [entry["name"] for entry in deployment["envSecrets"]],
                "volumes": deployment["volumes"],
                "volume_mounts": deployment["volumeMounts"],
                "resources": deployment["resources"],
                "run_k8s_config": snake_keys(launcher["runK8sConfig"]),
            }
        }
    )
    pod = context.run_k8s_config.pod_spec_config
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    mounted = {mount["name"] for mount in deployment["volumeMounts"]}
    assert mounted == {volume["name"] for volume in deployment["volumes"]}
    broken = {"k8s": {"volumes": [{"name": "x", "secretive": {}}]}}
    with pytest.raises(Exception, match="secretive"):
        K8sContainerContext.create_from_config(broken)


def test_the_code_server_is_started_on_the_graph(deployment):
    assert deployment["codeServerArgs"] == ["-m", "qwenft_assets.definitions"]
    assert deployment["env"]["QWENFT_STORAGE"].startswith("s3://")


def config_of(**sections):
    return Config.model_validate({"name": "k8s", **sections})


@pytest.mark.parametrize(
    ("device", "with_gpu"), [("cuda", {"lora_adapter", "evaluation"}), ("cpu", set())]
)
def test_only_training_and_evaluation_ask_for_a_gpu(device, with_gpu):
    executor = make_executor(config_of(automation={"executor": "k8s"}, training={"device": device}))
    assert executor.name == "k8s"
    applied: Any = executor.apply_config_mapping({"config": {}})
    steps = applied.value["config"].get("per_step_k8s_config", {})
    assert set(steps) == with_gpu
    for step in steps.values():
        asked = UserDefinedDagsterK8sConfig.from_dict(step)
        assert asked.container_config == {"resources": {"limits": {"nvidia.com/gpu": "1"}}}


def test_steps_share_the_runs_process_by_default():
    assert AutomationConfig().executor == "in_process"


def test_an_executor_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "dagster_k8s", None)
    with pytest.raises(ConfigError, match=r"automation\.executor: k8s needs dagster-k8s"):
        make_executor(config_of(automation={"executor": "k8s"}))


def snake_keys(config):
    """`containerConfig` to `container_config`, as the chart does it."""
    return {
        "".join(f"_{c.lower()}" if c.isupper() else c for c in key): value
        for key, value in config.items()
    }


def empty_kubeconfig(folder):
    path = folder / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "none",
                "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "none", "user": {}}],
                "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
            }
        ),
        encoding="utf-8",
    )  # fmt: skip
    return path
