"""Two hosts that share no disk, with a store on S3: their results are those of one process.

One run has a step with two workers and a stream. In the other one a host is killed in the middle of a fan-out.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import CACHE, GATEWAY, RAY_PORT, Host, hosts, network, why_impossible
from tests.support.s3_helpers import BUCKET, Proxy

REASON = why_impossible()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(REASON), reason=REASON),
]
UNDISTURBED, DISTURBED = f"s3://{BUCKET}/undisturbed", f"s3://{BUCKET}/disturbed"
Summary = dict[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model and the data, of which every host gets a copy."""
    from tests.support.host_steps import write_files

    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.fixture(scope="module")
def variables(s3_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of clients of the S3 server, which this process uses, too; with the network of the hosts."""
    import boto3

    with network(), pytest.MonkeyPatch.context() as patch:
        proxy = Proxy(s3_port, GATEWAY)
        variables = {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("CLOZELINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        bucket = boto3.resource("s3").Bucket(BUCKET)
        bucket.create()
        yield variables
        bucket.objects.all().delete()
        bucket.delete()
        proxy.close()


@pytest.fixture(scope="module")
def cluster(files: Path, variables: dict[str, str]) -> Iterator[list[Host]]:
    """Two hosts, each with its raylet."""
    with hosts(2, files, variables) as started:
        yield started


def run(cluster: list[Host], store: str, names: str, waits_on: str = "") -> Summary:
    """Runs steps, with the driver on the first host. If one of them waits on the last host, that host is killed."""
    address = f"{cluster[0].address}:{RAY_PORT}"
    words = ["python", "-m", "tests.support.programs.hosts_driver", store, address, names, waits_on]
    lines = []
    command, environment = cluster[0].command(*words), cluster[0].environment
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            lines.append(line)
            if line == "waiting\n":
                cluster[-1].kill()
    assert driver.returncode == 0, "".join(lines)
    summary: Summary = json.loads(lines[-1].removeprefix("result "))
    assert summary["errors"] == {}
    return summary


@pytest.fixture(scope="module")
def undisturbed(cluster: list[Host]) -> Summary:
    """The run of all steps."""
    return run(cluster, UNDISTURBED, "all")


@pytest.fixture(scope="module")
def expected(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> folder of the files of a step that ran in this process."""
    from tests.support.host_steps import run_here, steps

    return run_here(steps(files), tmp_path_factory.mktemp("expected"))


def files_of(store: str, step: str, summary: Summary) -> Path:
    """Returns the folder with the fetched files of a step."""
    from cluster.store.location import open_store

    return open_store(store).files(step, summary["fingerprints"][step])


def test_workers_on_two_hosts_train_as_one_process(undisturbed: Summary, expected: dict[str, Path]) -> None:
    folder = files_of(UNDISTURBED, "prompt", undisturbed)
    curves = [json.loads((item / "losses.json").read_text()) for item in (folder, expected["prompt"])]
    assert len(curves[0]) == 6 and curves[0] == pytest.approx(curves[1], abs=1e-5)
    assert_same_weights(folder, expected["prompt"])


def test_output_of_workers_on_all_hosts_is_in_the_log(undisturbed: Summary) -> None:
    from cluster.store.location import open_store

    log = open_store(UNDISTURBED).read(f"logs/prompt/{undisturbed['fingerprints']['prompt'][:12]}-1.log").decode()
    lines = [line for line in log.splitlines() if line.startswith("rank ")]
    assert sorted(line[:11] for line in lines) == ["rank 0 of 2", "rank 1 of 2"]
    assert {line.rpartition(" ")[2] for line in lines} == {"host1", "host2"}


def test_stream_on_two_hosts_labels_as_one_process(
    undisturbed: Summary, expected: dict[str, Path], cluster: list[Host]
) -> None:
    from stages.common.data import parquet_shards

    def rows(folder: Path) -> list[dict[str, Any]]:
        parts = parquet_shards.iter_rows(folder, ["uid", "label", "logits"])
        return [row for part in parts for row in part.to_pylist()]

    folder = files_of(UNDISTURBED, "shards", undisturbed)
    assert len(rows(folder)) == 27
    for one, other in zip(rows(folder), rows(expected["shards"]), strict=True):
        assert (one["uid"], one["label"]) == (other["uid"], other["label"])
        assert one["logits"] == pytest.approx(other["logits"], abs=1e-4)
    for host in cluster:
        found = host.run("find", str(CACHE), "-path", "*/results/pet/*", "-name", "result.json")
        assert {line.partition("/pet/")[2][0] for line in found.splitlines()} == {"0", "1", "2"}, "fetched by each host"


def test_lost_host_loses_no_result(expected: dict[str, Path], cluster: list[Host]) -> None:
    """The sub-model that trained on it is trained again. Kills the last host, so this is the last test."""
    disturbed = run(cluster, DISTURBED, "members", cluster[-1].name)
    assert sorted(disturbed["attempts"].values()) == [1, 1, 1, 2], "the data, and three sub-models"
    for name, attempt in disturbed["attempts"].items():
        if name.startswith("pet/"):
            assert attempt == 1 or disturbed["hosts"][name] == "host1"
            assert_same_weights(files_of(DISTURBED, name, disturbed), expected[name])


def assert_same_weights(folder: Path, expected: Path) -> None:
    """Compares weights up to rounding, because several workers add sums in another order."""
    from safetensors.torch import load_file

    names = sorted(path.relative_to(expected) for path in expected.rglob("*.safetensors"))
    assert names and names == sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    for name in names:
        weights = load_file(folder / name)
        for key, values in load_file(expected / name).items():
            assert weights[key].numpy() == pytest.approx(values.numpy(), abs=2e-5), name
