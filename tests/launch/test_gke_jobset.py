"""Tests gke_jobset.yaml against the fields that Kubernetes requires, and against its comments."""

import math
import re
import signal
import string

import pytest
import yaml

VALUES = {
  "NAME": "cifar10",
  "IMAGE": "europe-docker.pkg.dev/project/repository/miue:1",
  "CLAIM": "workdirs",
  "CONFIG": "configs/cifar10.py",
}
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
TOPOLOGY = "cloud.google.com/gke-tpu-topology"


@pytest.fixture
def text(launch):
  return (launch / "gke_jobset.yaml").read_text()


@pytest.fixture
def jobset(text):
  """Returns the manifest that `envsubst` would give to kubectl."""
  return yaml.safe_load(string.Template(text).substitute(VALUES))


@pytest.fixture
def job(jobset):
  """Returns the spec of the only Job."""
  (replicated,) = jobset["spec"]["replicatedJobs"]
  return replicated["template"]["spec"]


@pytest.fixture
def pod(job):
  """Returns the spec of its Pods."""
  return job["template"]["spec"]


def chips(topology):
  return math.prod(int(side) for side in topology.split("x"))


def test_every_variable_is_explained(text):
  explained = re.findall(r"^# \$\{(\w+)\} ", text, re.MULTILINE)
  used = set(re.findall(r"\$\{(\w+)\}", re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE)))
  assert sorted(explained) == sorted(used) == sorted(VALUES)


def test_required_fields(jobset, job, pod):
  assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
  assert jobset["kind"] == "JobSet"
  (replicated,) = jobset["spec"]["replicatedJobs"]
  assert replicated["replicas"] == 1  # one slice
  (container,) = pod["containers"]
  assert container["image"] == VALUES["IMAGE"]
  for name in (jobset["metadata"]["name"], replicated["name"], container["name"]):
    assert DNS_LABEL.fullmatch(name)
  # The controller names Pods JOBSET-REPLICATED-JOBINDEX-PODINDEX-SUFFIX, a DNS label as well.
  assert (
    len(f"{jobset['metadata']['name']}-{replicated['name']}-0-{job['completions']}-abcde") <= 63
  )


def test_one_indexed_pod_on_each_host_of_the_slice(job, pod):
  assert job["completionMode"] == "Indexed"
  assert job["parallelism"] == job["completions"]
  (container,) = pod["containers"]
  resources = container["resources"]
  assert resources["requests"] == resources["limits"]  # Kubernetes demands it of extended resources
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
  topology = pod["nodeSelector"][TOPOLOGY]
  assert chips(topology) == 64
  assert job["completions"] * resources["limits"]["google.com/tpu"] == chips(topology)


def test_the_comments_agree(text, job, pod):
  topology = pod["nodeSelector"][TOPOLOGY]
  assert f"--tpu-topology={topology} --num-nodes={job['completions']}" in text
  sizes = re.findall(r"(\d+x\d+): (\d+)", text)
  assert (topology, str(job["completions"])) in sizes
  assert all(chips(size) == 4 * int(hosts) for size, hosts in sizes)
  assert f"--max-log-requests {job['completions']}" in text


def test_the_image_has_the_program_and_its_recipes(launch):
  lines = (launch / "Dockerfile").read_text().splitlines()
  copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
  assert {"miue_jax", VALUES["CONFIG"].partition("/")[0]} <= copied
  # The package may be installed instead of standing next to its tests.
  assert all((launch.parent / name).exists() for name in copied - {"miue_jax"})
  assert lines[-1] == "RUN pip install --no-cache-dir -e '.[tpu]'"


def test_a_preempted_host_restarts_all_and_a_broken_program_not_forever(jobset, job, pod):
  assert pod["restartPolicy"] == "Never"  # podFailurePolicy demands it
  assert job["backoffLimit"] == 0  # the first lost Pod fails the Job, which restarts the JobSet
  policy = jobset["spec"]["failurePolicy"]
  assert 0 < policy["maxRestarts"] <= 10
  (rule,) = policy["rules"]
  assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]

  disrupted, saved = job["podFailurePolicy"]["rules"]
  assert disrupted == {
    "action": "FailJob",
    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
  }
  assert saved["action"] == "FailJob"
  assert saved["onExitCodes"] == {
    "containerName": pod["containers"][0]["name"],
    "operator": "In",
    "values": [128 + signal.SIGTERM],
  }
  assert pod["terminationGracePeriodSeconds"] >= 60


def test_the_program(pod):
  (container,) = pod["containers"]
  assert container["command"] == ["python", "-m", "miue_jax.main"]
  flags = dict(arg.removeprefix("--").split("=", 1) for arg in container["args"])
  assert flags["config"] == VALUES["CONFIG"]
  assert float(flags["distributed_timeout"]) >= 600  # an image takes minutes to arrive
  # The workdir is on the volume that outlives the Pods.
  (mount,) = container["volumeMounts"]
  assert flags["workdir"] == f"{mount['mountPath']}/{VALUES['NAME']}"
  assert flags["config.data.path"] == f"{mount['mountPath']}/data"
  (volume,) = pod["volumes"]
  assert volume["name"] == mount["name"]
  assert volume["persistentVolumeClaim"] == {"claimName": VALUES["CLAIM"]}
  # Kubernetes accepts only strings in the environment.
  assert all(isinstance(entry["value"], str) for entry in container["env"])
