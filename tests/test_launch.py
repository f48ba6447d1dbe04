"""The launch scripts against stand-ins for gcloud, kubectl, docker and SLURM that record their calls."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest
import yaml
from packaging import requirements, utils

from cover_jax import errors
from tests.docs import pages

REPO = pathlib.Path(__file__).parents[1]
LAUNCH = REPO / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
CONSTRAINTS = LAUNCH / "constraints.txt"
TPU = ["--name=cover", "--zone=us-east5-b"]
FLAGS = ["--", "--config=configs/cover_l.py", "--workdir=gs://bucket/run"]

# Writes its arguments down, then answers with the first line of ANSWERS whose pattern is in them, and drops that line:
# "pattern<tab>exit code<tab>what it prints". A pattern that no line has is answered with nothing and 0.
STAND_IN = """#!{python} -IS
import json, os, pathlib, sys
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
piped = call[:2] == ["kubectl", "create"] or call[:2] == ["docker", "build"]
with open("{folder}/calls", "a") as calls:
    calls.write(json.dumps(dict(argv=call, stdin=sys.stdin.buffer.read().decode("latin1") if piped else "")) + "\\n")
answers = pathlib.Path("{folder}/answers")
lines = answers.read_text().splitlines()
for line in lines:
    pattern, code, printed = line.split("\\t")
    if pattern in " ".join(call):
        lines.remove(line)
        answers.write_text("\\n".join(lines))
        print(printed.replace("|", "\\n"), file=sys.stderr if int(code) else sys.stdout)
        sys.exit(int(code))
"""


class Cloud:
    """A folder of stand-ins, first on PATH, and the calls that reached them."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        for name in ("gcloud", "kubectl", "docker"):
            (folder / name).write_text(STAND_IN.format(python=sys.executable, folder=folder))
            (folder / name).chmod(0o755)
        self.answer()

    def answer(self, *answers: tuple[str, int, str]) -> None:
        (self.folder / "answers").write_text("\n".join("\t".join(map(str, answer)) for answer in answers))

    def run(self, script: str, *args: str, code: int = 0) -> subprocess.CompletedProcess:
        env = os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}", "PYTHON": sys.executable}
        done = subprocess.run([LAUNCH / script, *args], capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def calls(self) -> list[dict]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def steps(self) -> list[str]:
        """Each call by what it is for, in order, without the looks."""
        kinds = {"queued-resources create": "create", "queued-resources delete": "delete", " scp ": "copy",
                 "worker.sh setup": "setup", "worker.sh start": "start", "worker.sh stop": "stop"}  # fmt: skip
        lines = [" ".join(call["argv"]) for call in self.calls()]
        return [kind for line in lines for pattern, kind in kinds.items() if pattern in line]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def option(argv: list[str], name: str) -> str:
    """The value of `--name=value`, which must be there once."""
    (value,) = [word.split("=", 1)[1] for word in argv if word.startswith(f"--{name}=")]
    return value


def test_shellcheck_finds_nothing():
    beside_python = pathlib.Path(sys.executable).parent  # where pip puts it, on PATH or not
    shellcheck = shutil.which("shellcheck", path=f"{beside_python}:{os.environ['PATH']}")
    assert shellcheck, "no shellcheck: pip install -e '.[test]'"
    done = subprocess.run([shellcheck, "-x", *SCRIPTS], capture_output=True, text=True, cwd=REPO)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh", "local.sh", "slurm.sh"])
def test_help_is_the_text_at_the_top(cloud, script):
    printed = cloud.run(script, "--help").stdout
    assert f"launch/{script} [--dry-run]" in printed and "set -euo" not in printed and "#" not in printed


# TPU VMs


@pytest.mark.parametrize(
    "tpu_type, runtime",
    [
        ("v6e-64", "v2-alpha-tpuv6e"),
        ("v5p-128", "v2-alpha-tpuv5"),
        ("v5litepod-32", "v2-alpha-tpuv5-lite"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_create_asks_for_the_type_with_its_runtime_and_waits(cloud, tpu_type, runtime):
    cloud.answer(*[("describe", 0, state) for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")])
    cloud.run("tpu_vm.sh", "create", *TPU, f"--type={tpu_type}", "--spot", "--project=mine", "--poll_s=0")
    create, *describes = [call["argv"] for call in cloud.calls()]
    assert create[:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "cover"]
    assert set(create[6:]) == {
        "--node-id=cover", f"--accelerator-type={tpu_type}", f"--runtime-version={runtime}", "--spot",
        "--zone=us-east5-b", "--project=mine", "--quiet",
    }  # fmt: skip
    assert len(describes) == 3
    assert all(call[3:6] == ["queued-resources", "describe", "cover"] for call in describes)


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_create_gives_up_on_a_request_that_failed(cloud, state):
    cloud.answer(("describe", 0, state))
    done = cloud.run("tpu_vm.sh", "create", *TPU, "--type=v6e-64", "--poll_s=0", code=1)
    assert f"ended as {state}" in done.stderr and "queued-resources describe cover" in done.stderr


def test_setup_copies_the_last_commit_to_all_hosts_and_installs_it(cloud):
    cloud.run("tpu_vm.sh", "setup", *TPU)
    copy, install = [call["argv"] for call in cloud.calls()]
    assert copy[3:5] == ["tpu-vm", "scp"] and copy[6] == "cover:cover-jax.tar.gz" and option(copy, "worker") == "all"
    assert install[3:6] == ["tpu-vm", "ssh", "cover"] and option(install, "worker") == "all"
    assert option(install, "command").endswith("bash cover-jax/launch/worker.sh setup")


def test_run_hands_every_flag_and_variable_to_all_hosts_unchanged(cloud):
    awkward = '--config.note=it\'s "here" $HOME & *'
    cloud.run("tpu_vm.sh", "run", *TPU, "--env=CACHE=gs://b/my cache", *FLAGS, awkward)
    (call,) = cloud.calls()
    assert option(call["argv"], "worker") == "all"
    assert shlex.split(option(call["argv"], "command")) == [
        "env", "CACHE=gs://b/my cache", "bash", "cover-jax/launch/worker.sh", "start", *FLAGS[1:], awkward,
        "--distributed",
    ]  # fmt: skip


def test_a_private_network_labels_and_a_limit_on_waiting_reach_the_request(cloud):
    cloud.answer(("describe", 0, "ACTIVE"))
    options = ["--type=v6e-64", "--reserved", "--internal_ips", "--network=vpc", "--subnetwork=tpus"]
    options += ["--labels=team=video,run=a-1", "--valid_until_duration=6h", "--service_account=a@b"]
    cloud.run("tpu_vm.sh", "create", *TPU, *options, "--poll_s=0")
    assert {
        "--node-id=cover", "--reserved", "--internal-ips", "--network=vpc", "--subnetwork=tpus",
        "--labels=team=video,run=a-1", "--valid-until-duration=6h", "--service-account=a@b",
    } < set(cloud.calls()[0]["argv"])  # fmt: skip


@pytest.mark.parametrize(
    "options, route",
    [([], set()), (["--internal_ips"], {"--internal-ip"}), (["--internal_ips", "--iap"], {"--tunnel-through-iap"})],
)
def test_ssh_and_scp_reach_hosts_without_public_addresses(cloud, options, route):
    cloud.run("tpu_vm.sh", "setup", *TPU, *options)
    for call in cloud.calls():
        assert {"--internal-ip", "--tunnel-through-iap"} & set(call["argv"]) == route


def test_several_slices_are_one_request_and_every_command_reaches_all_of_them(cloud):
    cloud.answer(("describe", 0, "ACTIVE"))
    slices = [*TPU, "--slices=2"]
    cloud.run("tpu_vm.sh", "create", *slices, "--type=v6e-16", "--poll_s=0")
    argv = cloud.calls()[0]["argv"]
    assert option(argv, "node-count") == "2" and option(argv, "node-prefix") == "cover"
    assert not any(word.startswith("--node-id") for word in argv)
    cloud.run("tpu_vm.sh", "setup", *slices)
    cloud.run("tpu_vm.sh", "logs", *slices, "--slice=1", "--worker=2")
    copy, install, logs = [call["argv"] for call in cloud.calls()[2:]]
    assert copy[3:5] == ["queued-resources", "scp"] and install[3:6] == ["queued-resources", "ssh", "cover"]
    for argv in (copy, install):
        assert option(argv, "node") == option(argv, "worker") == "all"
    assert option(logs, "node") == "1" and option(logs, "worker") == "2"


def test_watch_sees_that_one_of_several_slices_was_taken_away(cloud):
    gone = ("worker.sh state", 255, "ssh: connect to host: timed out")
    cloud.answer(
        (REQUEST, 0, "ACTIVE"), gone, ("describe cover-0", 0, "READY"), ("describe cover-1", 0, "PREEMPTED"),
        (REQUEST, 0, "ACTIVE"), hosts("exit 0", "exit 0"),
    )  # fmt: skip
    cloud.run("tpu_vm.sh", "watch", *TPU, "--slices=2", "--type=v6e-16", "--poll_s=0", *FLAGS)
    assert cloud.steps() == ["delete", "create"]


def test_rehearse_runs_on_all_hosts_and_ends_as_they_do(cloud):
    cloud.answer(("worker.sh rehearse", 43, "error: config.a"))
    cloud.run("tpu_vm.sh", "rehearse", *TPU, "--env=A=b", *FLAGS, code=43)
    (call,) = cloud.calls()
    assert option(call["argv"], "worker") == "all"
    assert shlex.split(option(call["argv"], "command")) == [
        "env", "A=b", "bash", "cover-jax/launch/worker.sh", "rehearse", *FLAGS[1:], "--mode=rehearse", "--distributed",
    ]  # fmt: skip


def test_setup_from_a_wheelhouse_names_it_on_every_host(cloud):
    cloud.run("tpu_vm.sh", "setup", *TPU, "--wheelhouse=gs://bucket/a b.tar.gz")
    command = option(cloud.calls()[-1]["argv"], "command")
    assert shlex.split(command)[-3:] == ["cover-jax/launch/worker.sh", "setup", "gs://bucket/a b.tar.gz"]


def test_a_wheelhouse_is_made_of_the_last_commit_and_copied_into_the_bucket(cloud):
    printed = cloud.run("tpu_vm.sh", "--dry-run", "wheelhouse", "--wheelhouse=gs://bucket/w.tar.gz").stdout
    make, copy = map(shlex.split, printed.splitlines())
    assert make[0] == "bash" and make[1].endswith("launch/worker.sh") and make[2] == "wheelhouse"
    assert copy == ["gcloud", "storage", "cp", make[3], "gs://bucket/w.tar.gz"]


def test_logs_follow_the_host_that_was_asked_for(cloud):
    cloud.run("tpu_vm.sh", "logs", *TPU, "--worker=3")
    (call,) = cloud.calls()
    assert option(call["argv"], "worker") == "3" and option(call["argv"], "command").endswith("worker.sh log")


def test_status_shows_the_request_and_the_hosts(cloud):
    cloud.answer(("describe", 0, "ACTIVE"), ("worker.sh state", 0, "host: running|host: running"))
    assert cloud.run("tpu_vm.sh", "status", *TPU).stdout.split("\n")[:3] == ["ACTIVE", "host: running", "host: running"]


def test_delete_takes_the_hosts_with_the_request(cloud):
    cloud.run("tpu_vm.sh", "delete", *TPU)
    (call,) = cloud.calls()
    assert call["argv"][3:6] == ["queued-resources", "delete", "cover"] and "--force" in call["argv"]


def watch(cloud: Cloud, *answers: tuple[str, int, str], code: int = 0) -> str:
    cloud.answer(*answers)
    return cloud.run("tpu_vm.sh", "watch", *TPU, "--type=v6e-16", "--poll_s=0", *FLAGS, code=code).stderr


def hosts(*states: str) -> tuple[str, int, str]:
    return ("worker.sh state", 0, "|".join(f"host: {state}" for state in states))


REQUEST = "queued-resources describe"
ACTIVE = (REQUEST, 0, "ACTIVE")
START = ["stop", "copy", "setup", "start"]


def test_watch_goes_from_nothing_to_a_finished_run(cloud):
    printed = watch(
        cloud,
        (REQUEST, 1, "ERROR: (gcloud) NOT_FOUND: no such thing"),
        (REQUEST, 0, "WAITING_FOR_RESOURCES"),
        *[ACTIVE] * 4,
        hosts("bare", "bare"), hosts("running", "running"), hosts("exit 0", "running"), hosts("exit 0", "exit 0"),
    )  # fmt: skip
    assert cloud.steps() == ["create", *START]
    assert "main has ended on every host" in printed


def test_watch_asks_for_another_slice_after_a_preemption(cloud):
    watch(
        cloud,
        ACTIVE, (REQUEST, 0, "SUSPENDING"), (REQUEST, 0, "SUSPENDED"), (REQUEST, 0, "PROVISIONING"), *[ACTIVE] * 2,
        hosts("running", "running"), hosts("bare", "bare"), hosts("exit 0", "exit 0"),
    )  # fmt: skip
    assert cloud.steps() == ["delete", "create", *START]


def test_watch_sees_a_preemption_that_the_request_does_not_tell(cloud):
    gone = ("worker.sh state", 255, "ssh: connect to host: timed out")
    watch(
        cloud,
        *[ACTIVE] * 3, gone, ("tpu-vm describe", 0, "READY"), gone, ("tpu-vm describe", 0, "PREEMPTED"),
        hosts("exit 0"),
    )  # fmt: skip
    assert cloud.steps() == ["delete", "create"]


@pytest.mark.parametrize("states", [("lost", "exit 1"), ("exit 42", "exit 42"), ("lost", "running")])
def test_watch_starts_all_hosts_again_after_one_was_restarted_or_preempted(cloud, states):
    watch(cloud, *[ACTIVE] * 2, hosts(*states), hosts("exit 0", "exit 0"))
    assert cloud.steps() == ["stop", "start"]


def test_watch_ends_when_main_itself_fails_and_shows_its_last_lines(cloud):
    failed = hosts("exit 1", "running")
    printed = watch(cloud, *[ACTIVE] * 2, failed, failed, ("tail -n 20", 0, "the cause"), code=1)
    assert "main failed" in printed
    assert "tail -n 20 cover-run/log" in " ".join(cloud.calls()[-1]["argv"])
    assert cloud.steps() == []


def test_watch_does_not_blame_main_for_a_slice_that_is_being_taken_away(cloud):
    watch(
        cloud,
        ACTIVE, (REQUEST, 0, "SUSPENDED"), *[ACTIVE] * 2,
        hosts("exit 134", "exit 1"), hosts("bare", "bare"), hosts("exit 0", "exit 0"),
    )  # fmt: skip
    assert cloud.steps() == ["delete", "create", *START]


def test_watch_outlives_an_api_that_does_not_answer_and_a_setup_that_fails(cloud):
    printed = watch(
        cloud,
        *[ACTIVE] * 2, (REQUEST, 1, "ERROR: 503 unavailable"), *[ACTIVE] * 2,
        hosts("bare"), ("worker.sh setup", 1, "no network"), hosts("bare"), hosts("running"), hosts("exit 0"),
    )  # fmt: skip
    assert cloud.steps() == [*START[:3], *START]
    assert "503" in printed and "trying again" in printed


def test_watch_ends_when_the_slice_cannot_be_asked_for(cloud):
    printed = watch(cloud, (REQUEST, 1, "NOT_FOUND"), ("queued-resources create", 1, "quota exceeded"), code=1)
    assert "cannot be asked for" in printed and "quota exceeded" in printed


def test_dry_run_of_watch_prints_every_step_and_calls_nothing(cloud):
    printed = cloud.run("tpu_vm.sh", "--dry-run", "watch", *TPU, "--type=v6e-16", *FLAGS).stdout
    assert cloud.calls() == []
    commands = [shlex.split(line) for line in printed.splitlines()]
    assert all(command[:3] == ["gcloud", "compute", "tpus"] for command in commands)
    assert [command[4] for command in commands] == [
        "create", "describe", "scp", "ssh", "ssh", "describe", "ssh", "delete",
    ]  # fmt: skip


# GKE

GKE = ["--name=cover", "--image=registry/cover:v1", "--accelerator=tpu-v6e-slice", "--topology=4x8"]


def test_gke_creates_a_jobset_that_restarts_what_was_preempted(cloud):
    awkward = '--config.note=a "b" \\ & c'
    cloud.run("gke.sh", "run", *GKE, "--service_account=trainer", "--env=CACHE=gs://b/c", *FLAGS, awkward)
    (call,) = cloud.calls()
    assert call["argv"] == ["kubectl", "create", "--filename=-"]
    jobset = yaml.safe_load(call["stdin"])
    assert jobset["metadata"]["name"] == "cover"
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule == {"action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}
    (slices,) = jobset["spec"]["replicatedJobs"]
    assert slices["replicas"] == 1
    job = slices["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 8 and job["backoffLimit"] == 0
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == list(errors.START_AGAIN)
    pod = job["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer" and pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
    }
    (main,) = pod["containers"]
    assert main["image"] == "registry/cover:v1"
    assert main["command"] == ["python", "-m", "cover_jax.main"]
    assert [as_kubernetes_reads(word) for word in main["args"]] == [*FLAGS[1:], awkward, "--distributed"]
    assert main["env"] == [{"name": "CACHE", "value": "gs://b/c"}]
    assert main["resources"]["limits"] == {"google.com/tpu": 4}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 3


def as_kubernetes_reads(text: str) -> str:
    """Kubernetes puts variables in place of $(NAME) in commands and variables, and $ in place of $$."""
    assert "$(" not in text.replace("$$", "")
    return text.replace("$$", "$")


def test_gke_hands_on_every_character_of_flags_and_variables_and_no_value_becomes_a_field(cloud):
    value = 'a: b\n  hostNetwork: true\t"\\ ${FLAGS} ${ENV} $(HOME) $$ # &'
    cloud.run("gke.sh", "run", *GKE, f"--env=A={value}", *FLAGS, f"--config.note={value}")
    jobset = yaml.safe_load(cloud.calls()[0]["stdin"])
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert "hostNetwork" not in pod
    (main,) = pod["containers"]
    assert as_kubernetes_reads(main["args"][2]) == f"--config.note={value}"
    assert as_kubernetes_reads(main["env"][0]["value"]) == value


def test_gke_main_is_not_root_and_gets_no_rights_unless_asked(cloud):
    for options in ([], ["--privileged"]):
        cloud.run("gke.sh", "run", *GKE, *options, *FLAGS)
    plain, privileged = [
        yaml.safe_load(call["stdin"])["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        for call in cloud.calls()
    ]
    assert plain["securityContext"]["runAsNonRoot"] and plain["securityContext"]["runAsUser"] == 1000
    rights = plain["containers"][0]["securityContext"]
    assert rights == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert privileged["containers"][0]["securityContext"] == {"privileged": True}
    assert privileged["securityContext"] == {"runAsUser": 0}


def test_gke_rehearses_once_under_a_name_of_its_own_and_ends_with_mains_code(cloud):
    cloud.answer(("output=name", 0, "pod/cover-0"), ("logs --follow", 0, "the table"), ("get pods", 0, "43"))
    printed = cloud.run("gke.sh", "rehearse", *GKE, *FLAGS, code=43).stdout
    assert "the table" in printed
    create, *_, delete = cloud.calls()
    jobset = yaml.safe_load(create["stdin"])
    assert jobset["metadata"]["name"] == "cover-rehearsal"
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 0, "rules": []}
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][-2:] == ["--mode=rehearse", "--distributed"]
    assert delete["argv"] == ["kubectl", "delete", "jobset", "cover-rehearsal"]


def test_gke_leaves_no_rehearsal_behind_when_its_log_cannot_be_followed(cloud):
    cloud.answer(("output=name", 0, "pod/cover-0"), ("logs --follow", 1, "error: timed out"))
    assert "timed out" in cloud.run("gke.sh", "rehearse", *GKE, *FLAGS, code=1).stderr
    assert cloud.calls()[-1]["argv"] == ["kubectl", "delete", "jobset", "cover-rehearsal"]


NODES = ["--name=pool", "--cluster=c", "--location=us-central1", "--zone=us-central1-c"]


@pytest.mark.parametrize(
    "accelerator, topology, machine, hosts_per_slice",
    [
        ("tpu-v4-podslice", "4x4x4", "ct4p-hightpu-4t", 16),
        ("tpu-v5-lite-podslice", "16x16", "ct5lp-hightpu-4t", 64),
        ("tpu-v5p-slice", "2x2x2", "ct5p-hightpu-4t", 2),
        ("tpu-v6e-slice", "8x8", "ct6e-standard-4t", 16),
    ],
)
def test_gke_node_pools_have_the_machines_of_their_topology(cloud, accelerator, topology, machine, hosts_per_slice):
    cloud.run("gke.sh", "nodes", *NODES, f"--accelerator={accelerator}", f"--topology={topology}", "--spot")
    (call,) = cloud.calls()
    assert call["argv"][1:5] == ["container", "node-pools", "create", "pool"] and "--spot" in call["argv"]
    assert option(call["argv"], "machine-type") == machine and option(call["argv"], "tpu-topology") == topology
    assert option(call["argv"], "num-nodes") == str(hosts_per_slice)


def test_gke_node_pools_of_tpu7x_have_a_placement_policy_and_no_topology(cloud):
    cloud.run("gke.sh", "nodes", *NODES, "--accelerator=tpu7x", "--topology=4x4x4", "--slices=2", "--reservation=r")
    policy, *pools = [call["argv"] for call in cloud.calls()]
    assert policy[1:5] == ["compute", "resource-policies", "create", "workload-policy"]
    assert option(policy, "type") == "HIGH_THROUGHPUT" and option(policy, "accelerator-topology") == "4x4x4"
    assert [pool[4] for pool in pools] == ["pool-0", "pool-1"]
    for pool in pools:
        assert option(pool, "machine-type") == "tpu7x-standard-4t" and option(pool, "num-nodes") == "16"
        assert option(pool, "placement-policy") == policy[5] and option(pool, "reservation") == "r"
        assert not any(word.startswith("--tpu-topology") for word in pool)


def test_gke_one_host_of_tpu7x_needs_no_policy(cloud):
    cloud.run("gke.sh", "nodes", *NODES, "--accelerator=tpu7x", "--topology=2x2x1")
    (call,) = cloud.calls()
    assert option(call["argv"], "num-nodes") == "1" and "policy" not in " ".join(call["argv"])


def test_gke_dry_run_prints_the_manifest_and_calls_nothing(cloud):
    printed = cloud.run("gke.sh", "run", "--dry-run", *GKE, *FLAGS).stdout
    manifest, command = printed.rsplit("kubectl", 1)
    assert "${" not in manifest and yaml.safe_load(manifest)["kind"] == "JobSet"
    assert command == " create --filename=-\n"
    assert cloud.calls() == []


def test_gke_starts_several_slices_of_as_many_hosts_each(cloud):
    cloud.run("gke.sh", "run", *GKE, "--slices=3", *FLAGS)
    (slices,) = yaml.safe_load(cloud.calls()[0]["stdin"])["spec"]["replicatedJobs"]
    assert (slices["replicas"], slices["template"]["spec"]["completions"]) == (3, 8)


def test_gke_follows_the_first_host_of_the_first_slice(cloud):
    cloud.run("gke.sh", "logs", "--name=cover")
    labels = cloud.calls()[0]["argv"][-1].removeprefix("--selector=").split(",")
    assert {"jobset.sigs.k8s.io/job-index=0", "batch.kubernetes.io/job-completion-index=0"} < set(labels)


def test_gke_image_is_built_of_the_last_commit(cloud):
    cloud.run("gke.sh", "image", "--image=registry/cover:v1")
    build, push, digest = cloud.calls()
    assert build["argv"][:2] == ["docker", "build"] and build["argv"][-1] == "-"
    assert option(build["argv"], "tag") == "registry/cover:v1" and option(build["argv"], "file") == "launch/Dockerfile"
    assert option(build["argv"], "build-arg") == "EXTRAS=tpu"
    assert "cover_jax/main.py" in build["stdin"], "the build's context is an archive of the repository"
    assert push["argv"] == ["docker", "push", "registry/cover:v1"]
    assert digest["argv"][:3] == ["docker", "image", "inspect"]


def test_the_image_is_pinned_not_root_and_has_the_tested_versions():
    lines = (LAUNCH / "Dockerfile").read_text().splitlines()
    (base,) = [line for line in lines if line.startswith("FROM")]
    assert re.fullmatch(r"FROM python:3\.11\.\d+-\S+@sha256:[0-9a-f]{64}", base)
    assert lines.index("USER 1000") > max(i for i, line in enumerate(lines) if line.startswith("RUN"))
    assert any("--constraint launch/constraints.txt" in line for line in lines)


@pytest.mark.parametrize(
    "command, expected",
    [
        ("logs", ["logs", "--follow", "--tail=-1"]),
        ("status", ["get", "jobset", "cover"]),
        ("delete", ["delete", "jobset", "cover"]),
    ],
)
def test_gke_names_the_jobset_in_every_other_command(cloud, command, expected):
    cloud.run("gke.sh", command, "--name=cover")
    assert cloud.calls()[0]["argv"][1:4] == expected
    assert "cover" in " ".join(cloud.calls()[-1]["argv"])


# What is wrong is said before anything is called


@pytest.mark.parametrize(
    "args, message",
    [
        (["tpu_vm.sh", "creat", *TPU], "'creat' is no command"),
        (["tpu_vm.sh", "create", "--zone=a"], "--name is missing"),
        (["tpu_vm.sh", "create", *TPU], "--type is missing"),
        (["tpu_vm.sh", "create", *TPU, "--type=h100-8"], "--type=h100-8: should begin with v6e-"),
        (["tpu_vm.sh", "create", *TPU, "--tpye=v6e-8"], "'--tpye=v6e-8' is no option"),
        (["tpu_vm.sh", "run", *TPU, "--env=A", *FLAGS], "--env=A: should be NAME=VALUE"),
        (["tpu_vm.sh", "run", *TPU, "--", "--workdir=gs://b"], "lack --config="),
        (["tpu_vm.sh", "watch", *TPU, "--type=v6e-8", "--", "--config=c.py"], "lack --workdir="),
        (["gke.sh", "run", *GKE[:3], *FLAGS], "--topology is missing"),
        (["gke.sh", "run", *GKE, "--slices=two", *FLAGS], "--slices=two: should be a number from 1"),
        (["gke.sh", "run", *GKE[:3], "--topology=8", *FLAGS], "--topology=8: should be such as 4x8"),
        (["gke.sh", "run", *GKE[:3], "--topology=1x2", *FLAGS], "2 chips are no whole number of hosts of 4"),
        (["tpu_vm.sh", "create", *TPU, "--type=v6e-8", "--spot", "--reserved"], "--spot and --reserved exclude"),
        (["tpu_vm.sh", "create", *TPU, "--type=tpu7x-8"], "launch/gke.sh"),
        (
            ["tpu_vm.sh", "create", "--name=a\nb: c", "--zone=a", "--type=v6e-8"],
            "--name=a\\nb: c': should be at most 63",
        ),
        (["tpu_vm.sh", "create", "--name=Cover", "--zone=a", "--type=v6e-8"], "--name=Cover: should be at most 63"),
        (["tpu_vm.sh", "create", *TPU, "--type=v6e-8", "--labels=Team=a"], "--labels=Team=a: should be KEY=VALUE,..."),
        (["tpu_vm.sh", "create", *TPU, "--type=v6e-8", "--valid_until_duration=soon"], "should be such as 6h"),
        (["tpu_vm.sh", "create", *TPU, "--type=v6e-8", "--slices=0"], "--slices=0: should be a number from 1"),
        (["tpu_vm.sh", "logs", *TPU, "--slice=1"], "--slice=1: there are slices 0 to 0"),
        (["tpu_vm.sh", "setup", *TPU, "--wheelhouse=/tmp/a"], "--wheelhouse=/tmp/a: should be such as gs://"),
        (["tpu_vm.sh", "wheelhouse"], "--wheelhouse is missing"),
        (["tpu_vm.sh", "run", *TPU, *FLAGS, "--config.note=\a"], "has a control character"),
        (["gke.sh", "run", "--name=a\n  hostNetwork: true", *GKE[1:], *FLAGS], "should be at most 63"),
        (["gke.sh", "run", f"--name={'a' * 50}", *GKE[1:], *FLAGS], "should have 3 characters less"),
        (["gke.sh", "run", *GKE, '--image=a" b: c', *FLAGS], "--image="),
        (["gke.sh", "run", *GKE, "--service_account=a: b", *FLAGS], "--service_account="),
        (["gke.sh", "run", *GKE, "--accelerator=a\nb", *FLAGS], "--accelerator="),
        (["gke.sh", "run", *GKE, "--topology=2x2", "--slices=2", *FLAGS], "GKE joins slices of several hosts only"),
        (["gke.sh", "run", *GKE, "--chips_per_host=0", *FLAGS], "--chips_per_host=0: should be a number from 1"),
        (["gke.sh", "nodes", *GKE, "--zone=z", "--location=l"], "--cluster is missing"),
        (
            ["gke.sh", "nodes", *GKE, "--cluster=c", "--zone=z", "--location=l", "--accelerator=h100"],
            "h100: should be tpu-",
        ),
        (["gke.sh", "nodes", *GKE, "--spot", "--reservation=r"], "--spot and --reservation exclude each other"),
        (["slurm.sh", "--config=a"], "lack --workdir="),
        (["slurm.sh", "--config=a", "--workdir=b"], "this is no SLURM job; call: sbatch"),
        (["local.sh", "two", *FLAGS[1:]], "PROCESSES is 'two'"),
        (["local.sh", "2", "--config=configs/demo.py"], "lack --workdir="),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_called(cloud, args, message):
    assert message in cloud.run(*args, code=1).stderr
    assert cloud.calls() == []


# What runs on a host, and locally, for real: with a stand-in for Python in place of main

# Ends with the codes of $CODES one after the other; on TERM and HUP it takes a moment, as main does to save, and ends
# with 42.
FAKE_MAIN = """#!/bin/bash
trap 'sleep 0.3; echo saved; exit 42' TERM HUP
{{ flock 9; read -r code <"{folder}/codes"; sed -i 1d "{folder}/codes"; }} 9>"{folder}/lock"
[[ $code == wait ]] && echo ready || echo "main $*"
while [[ $code == wait ]]; do sleep 0.05; done
exit "$code"
"""


@pytest.fixture
def fake_main(tmp_path):
    path = tmp_path / "python"
    path.write_text(FAKE_MAIN.format(folder=tmp_path))
    path.chmod(0o755)

    def codes(*values) -> dict[str, str]:
        (tmp_path / "codes").write_text("".join(f"{value}\n" for value in values))
        return os.environ | {"PYTHON": str(path)}

    return codes


def again(env) -> subprocess.CompletedProcess:
    return subprocess.run([LAUNCH / "again.sh", "--a b"], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "codes, runs",
    [
        ([0], 1),
        ([42, 42, 0], 3),
        ([42, 7], 2),
        ([1, 0], 1),
        ([47, 48, 42, 0], 4),
        ([137, 139, 143, 0], 4),
        ([130, 0], 1),
        ([141, 0], 1),
        ([137] * 9, 5),
        ([47] * 4 + [42] + [48] * 9, 10),
    ],  # fmt: skip
)
def test_again_starts_main_again_as_long_as_the_same_command_goes_on(fake_main, codes, runs):
    done = again(fake_main(*codes))
    assert done.returncode == codes[runs - 1]
    assert done.stdout == "main -m cover_jax.main --a b\n" * runs


def test_again_does_not_count_hosts_that_are_lost_after_a_long_time(fake_main):
    assert again(fake_main(*[47] * 9, 0) | {"COVER_SHORT_S": "0"}).returncode == 0


@pytest.mark.parametrize("code", [v for k, v in vars(errors).items() if k.isupper() and isinstance(v, int)])
def test_again_obeys_every_exit_code(fake_main, code):
    runs = 2 if code in errors.START_AGAIN else 1
    assert len(again(fake_main(code, 0)).stdout.splitlines()) == runs


@contextlib.contextmanager
def started(*command, env: dict[str, str]):
    """A script in a process group of its own, of which nothing is left at the end."""

    # As in a terminal: a job in the background would have INT ignored, which bash cannot undo.
    undo = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", undo, *map(str, command)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]  # HUP: its terminal was closed


@pytest.mark.parametrize("sent", STOPS)
def test_again_lets_main_save_when_it_is_stopped_and_starts_nothing_more(fake_main, sent):
    with started(LAUNCH / "again.sh", env=fake_main("wait", 0)) as process:
        assert process.stdout.readline().startswith("ready")
        process.send_signal(sent)
        assert process.wait(timeout=30) == 42
        assert process.stdout.read() == "saved\n"


class Host:
    """A folder that looks like a TPU host after worker.sh's setup, with a stand-in for its Python."""

    def __init__(self, folder: pathlib.Path, env: dict[str, str]):
        (folder / "code/.venv/bin").mkdir(parents=True)
        (folder / "code/.venv/bin/python").symlink_to(env["PYTHON"])
        (folder / "code/launch").symlink_to(LAUNCH)
        self.run_dir = folder / "run"
        # COLUMNS: `ps` shortens what it prints to a terminal's width, even where there is none.
        self.env = env | {"COVER_RUN_DIR": str(self.run_dir), "COLUMNS": "40"}
        self.script = folder / "code/launch/worker.sh"

    def __call__(self, *args: str) -> str:
        done = subprocess.run([self.script, *args], env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait_for(self, state: str) -> None:
        deadline = time.monotonic() + 30
        while self("state") != f"host: {state}":
            assert time.monotonic() < deadline, self("state")
            time.sleep(0.05)

    def wait_until_printed(self, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in (self.run_dir / "log").read_text():
            assert time.monotonic() < deadline, self("state")
            time.sleep(0.05)


def test_worker_runs_main_detached_and_tells_how_it_stands(tmp_path, fake_main):
    host = Host(tmp_path, fake_main("wait", 42, 3))
    assert host("state") == "host: bare"
    (host.run_dir / "ready").touch()
    assert host("state") == "host: ready"
    host("start")
    host.wait_for("running")
    host.wait_until_printed("ready")
    with pytest.raises(AssertionError, match="still runs here"):
        host("start")
    host("stop")
    host.wait_for("exit 42")
    assert "saved" in (host.run_dir / "log").read_text()
    host("start", "--config=c", "--note=a b")
    host.wait_for("exit 3")
    assert (
        (host.run_dir / "log")
        .read_text()
        .endswith("main -m cover_jax.main --config=c --note=a b\nagain.sh: main ended with exit code 3\n")
    )


def test_worker_rehearses_once_and_prints_mains_output_and_code(tmp_path, fake_main):
    host = Host(tmp_path, fake_main(42, "wait"))
    (host.run_dir / "ready").parent.mkdir()
    (host.run_dir / "ready").touch()
    done = subprocess.run([host.script, "rehearse", "--mode=rehearse"], env=host.env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (42, "main -m cover_jax.main --mode=rehearse\n")
    assert host("state") == "host: ready"  # a rehearsal leaves no trace in the run's own files
    host("start")
    host.wait_until_printed("ready")
    with pytest.raises(AssertionError, match="still runs here"):
        host("rehearse")
    host("stop")
    host.wait_for("exit 42")


def test_worker_stops_a_rehearsal_whose_connection_is_gone(tmp_path, fake_main):
    host = Host(tmp_path, fake_main("wait"))
    with started(host.script, "rehearse", env=host.env) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(AssertionError, match="still runs here"):
            host("start")
        host("stop")
        assert process.stdout.read() == "saved\n" and process.wait(timeout=30) == 42


# Takes the place of uv. Writes down its arguments and what tells it to stay offline.
FAKE_UV = """#!/bin/bash
[[ $1 != --version ]] || { echo "uv 0.0.0"; exit; }
echo "${UV_OFFLINE:-0}${UV_NO_INDEX:-0} ${UV_FIND_LINKS:-} | $*" >>"$CALLS"
"""


def test_worker_installs_from_a_wheelhouse_without_the_internet(tmp_path):
    programs, packed = tmp_path / "bin", tmp_path / "packed/python/cpython-3.11.14-linux/bin"
    for path in (programs, packed, tmp_path / "code"):
        path.mkdir(parents=True)
    (packed / "python3.11").touch()
    (tmp_path / "packed/uv").write_text(FAKE_UV)
    (tmp_path / "packed/uv").chmod(0o755)
    (tmp_path / "code/launch").symlink_to(LAUNCH)
    archive = tmp_path / "wheelhouse.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", tmp_path / "packed", "."], check=True)
    for name, does in {
        "gcloud": f'[[ "$*" == "storage cat gs://b/w.tar.gz" ]] && cat {archive}',
        "curl": "exit 9",
    }.items():
        (programs / name).write_text(f"#!/bin/bash\n{does}\n")
        (programs / name).chmod(0o755)
    env = os.environ | {"HOME": str(tmp_path), "PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")}
    script = tmp_path / "code/launch/worker.sh"
    subprocess.run([script, "setup", "gs://b/w.tar.gz"], env=env, check=True, timeout=60)
    here = tmp_path / "cover-wheelhouse"
    offline = f"11 {here}/wheels | "
    venv, install = (tmp_path / "calls").read_text().splitlines()
    assert venv.startswith(f"{offline}venv") and f"--python {here}/python/cpython-3.11.14-linux/bin/python3.11 " in venv
    assert install.startswith(f"{offline}pip install") and "--constraint launch/constraints.txt -e .[tpu]" in install
    done = subprocess.run([script, "setup"], env=env, capture_output=True, timeout=60)
    assert done.returncode != 0  # without a wheelhouse it fetches uv, which `curl` here refuses


def test_worker_notices_that_the_machine_went_down_under_a_run(tmp_path, fake_main):
    host = Host(tmp_path, fake_main())
    host("stop")
    (host.run_dir / "ready").touch()
    (host.run_dir / "pid").write_text(str(os.getpid()))  # some other process has that number by now
    assert host("state") == "host: lost"


@pytest.fixture
def local_env(tmp_path, fake_main):
    """As `fake_main`, with a Python that can still find a free port."""

    def codes(*values) -> dict[str, str]:
        env = fake_main(*values)
        script = tmp_path / "python_or_main"
        script.write_text(f'#!/bin/bash\n[[ $1 != -c ]] || exec {sys.executable} "$@"\nexec {env["PYTHON"]} "$@"\n')
        script.chmod(0o755)
        return env | {"PYTHON": str(script)}

    return codes


LOCAL = (LAUNCH / "local.sh", "3", "--config=c", "--workdir=w")


def test_local_starts_processes_that_find_each_other(local_env):
    done = subprocess.run(LOCAL, env=local_env(0, 0, 0), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = sorted(line for line in done.stdout.splitlines() if "main -m" in line)
    assert [line[:4] for line in lines] == ["[0] ", "[1] ", "[2] "]
    assert all("--config=c --workdir=w" in line and "--num_processes=3" in line for line in lines)
    assert [line.split("--process_id=")[1] for line in lines] == ["0", "1", "2"]
    assert len({line.split("--coordinator=")[1].split()[0] for line in lines}) == 1


def test_local_fails_when_one_process_does(local_env):
    done = subprocess.run(LOCAL, env=local_env(5, 5, 5), capture_output=True, text=True, timeout=60)
    assert done.returncode == 5


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to the script", "as a terminal does"])
@pytest.mark.parametrize("sent", STOPS)
def test_local_lets_every_process_save_when_it_is_stopped(local_env, sent, send):
    with started(*LOCAL, env=local_env("wait", "wait", "wait")) as process:
        begun = 0
        while begun < 3:
            begun += "ready" in process.stdout.readline()
        send(process.pid, sent)
        assert process.wait(timeout=30) == 42
        assert sum("saved" in line for line in process.stdout) == 3


@pytest.fixture
def slurm(tmp_path, fake_main):
    """Stand-ins for srun, which runs its command once, and for scontrol, whose calls are in the file `requeued`."""

    def codes(*values) -> dict[str, str]:
        env = fake_main(*values)
        for name, does in {
            "srun": f'echo "$*" >>{tmp_path}/srun_calls\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"',
            "scontrol": f'echo "$*" >>{tmp_path}/requeued',
        }.items():
            (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
            (tmp_path / name).chmod(0o755)
        shutil.copy(LAUNCH / "slurm.sh", tmp_path / "slurm_script")  # as SLURM does
        job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(REPO), "SRUN_OPTIONS": "--a=1 --b"}
        return env | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    return codes


def test_slurm_starts_main_on_all_tasks_again_after_a_lost_one(tmp_path, slurm):
    command = [tmp_path / "slurm_script", "--config=c", "--workdir=a b"]
    done = subprocess.run(command, env=slurm(47, 0), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "main -m cover_jax.main --config=c --workdir=a b --distributed\n" * 2
    first = (tmp_path / "srun_calls").read_text().splitlines()[0]
    assert first.startswith(f"--kill-on-bad-exit=0 --a=1 --b {tmp_path}/python -m cover_jax.main")
    assert not (tmp_path / "requeued").exists()


def test_slurm_saves_before_the_time_limit_and_queues_the_job_again(tmp_path, slurm):
    with started(tmp_path / "slurm_script", "--config=c", "--workdir=w", env=slurm("wait", 0)) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 42 and process.stdout.read() == "saved\n"
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_slurm_is_told_of_the_time_limit_early_enough_for_a_checkpoint():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    options = [line for line in lines if line.startswith("#SBATCH")]
    assert {"#SBATCH --signal=B:TERM@300", "#SBATCH --requeue"} < set(options)
    code = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(option) < code for option in options)  # sbatch reads no further


def commands_of_pages() -> list[pages.Command]:
    """The whole ones: a sentence may name a script and its command alone."""
    found = [command for page, text in pages.all_pages().items() for command in pages.commands(page, text)]
    whole = re.compile(r"launch/(tpu_vm|gke)\.sh .*--(name|image|wheelhouse)=|launch/local\.sh \d")
    return [command for command in found if whole.match(" ".join(command.words))]


@pytest.mark.parametrize("command", commands_of_pages(), ids=lambda command: f"{command.page}: {command.words[:2]}")
def test_every_command_of_a_page_can_be_run_dry(cloud, command):
    printed = cloud.run(command.script.removeprefix("launch/"), "--dry-run", *command.words[1:]).stdout
    assert printed and cloud.calls() == []


# Which packages the hosts have


def pinned() -> dict[str, str]:
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]
    return {utils.canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def required(package: str, extras: tuple[str, ...] = ()) -> list[requirements.Requirement]:
    """Of an installed package on this machine, without extras that were not asked for."""
    found = [requirements.Requirement(line) for line in metadata.requires(package) or ()]
    return [r for r in found if not r.marker or any(r.marker.evaluate({"extra": extra}) for extra in ("", *extras))]


def test_constraints_fit_what_the_project_asks_for():
    versions = pinned()
    for requirement in required("cover-jax", ("tpu", "gcs", "dev", "plan")):
        if requirement.name != "cover-jax":
            assert requirement.specifier.contains(versions[utils.canonicalize_name(requirement.name)]), requirement


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the constraints are those of Python 3.11")
def test_constraints_name_every_package_that_a_host_gets():
    versions, missing, seen = pinned(), set(), set()
    left = [("cover-jax", ("tpu", "gcs"))]
    while left:
        name, extras = left.pop()
        for requirement in required(name, extras):
            name = utils.canonicalize_name(requirement.name)
            if name not in versions:
                missing.add(name)
            elif (name, *requirement.extras) not in seen:
                seen.add((name, *requirement.extras))
                with contextlib.suppress(metadata.PackageNotFoundError):  # without '.[plan]', libtpu
                    if metadata.version(name) == versions[name]:  # another version may need other packages
                        left.append((name, tuple(requirement.extras)))
    assert not missing and "jaxlib" in {name for name, *_ in seen}
