"""What `hpo launch` prints, and what it refuses: nothing is submitted here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import pytest
from click.testing import CliRunner, Result

from hpo.cli.root import root
from hpo.storage import migrate
from hpo.storage.engine import open_engine

POSTGRES = "postgresql+psycopg://hpo:hunter2@dbhost/lab"
IMAGE = ("--image", "registry.example/hpo:cuda")
NO_UTF8 = os.fsdecode(b"\xff")
PRINTED = {  # by engine: words that make it print
    "slurm": (),
    "kubernetes": IMAGE,
    "ray": (),
    "ssh": ("--host", "gpu1"),
}


class Launch:
    """`hpo launch`, in this process."""

    def __call__(self, *words: str | Path, url: str | None = POSTGRES, **environment: str) -> Result:
        variables = {**environment, **({"HPO_DATABASE_URL": url} if url else {})}
        return CliRunner().invoke(root, ["launch", *map(str, words)], prog_name="hpo", env=variables)

    def text(self, *words: str | Path, **environment: Any) -> str:
        """What is printed to be submitted."""
        result = self(*words, **environment)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, *words: str | Path, code: int, **environment: Any) -> str:
        """The last line of a command that ends with this code, and prints nothing to be submitted."""
        result = self(*words, **environment)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        line = result.stderr.splitlines()[-1]
        assert line.startswith("hpo: ")
        return line


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.chdir(tmp_path)
    for name in ("HPO_DATABASE_URL", "HPO_DATABASE_URL_FILE", "HPO_DATA_DIR", "HPO_ARTIFACTS", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return Launch()


# --- All engines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", PRINTED)
def test_no_password_is_printed(launch: Launch, engine: str) -> None:
    """Neither the URL's nor PGPASSWORD's."""
    result = launch(engine, *PRINTED[engine], PGPASSWORD="hidden")
    assert result.exit_code == 0, result.output
    assert "hunter2" not in result.output
    assert "hidden" not in result.output


@pytest.mark.parametrize("engine", PRINTED)
def test_workers_end_unless_they_are_to_last(launch: Launch, engine: str) -> None:
    """By --drain where nothing else ends them; --lasting and an end exclude each other."""
    words = PRINTED[engine]
    assert "--drain" in launch.text(engine, *words)
    assert "--drain" not in launch.text(engine, *words, "--lasting")
    for end in (("--scale-to-zero", "10"), ("--max-trials", "3")):
        text = launch.text(engine, *words, "--", *end)
        assert "--drain" not in text
        assert end[0] in text
        assert "--lasting" in launch.refused(engine, *words, "--lasting", "--", *end, code=2)


@pytest.mark.parametrize("engine", PRINTED)
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--count", "0"), "--count"),
        (("--name", "Upper"), "--name"),
        (("--env", "NOVALUE"), "NOVALUE"),
        (("--env", "A=b\nexport B=c"), "NAME=VALUE in one line"),
        (("--env", f"A={NO_UTF8}"), "is not UTF-8"),
        (("--artifacts", "a\nb"), "is not a line of text"),
        (("--", "--study", NO_UTF8), "is not UTF-8"),
        (("--", "--populaton", "4"), "--populaton"),
        (("--", "--lease", "0"), "--lease"),
        (("--", "--stop-with-stdin"), "--stop-with-stdin"),
    ],
)
def test_mistakes_are_one_line(launch: Launch, engine: str, words: tuple[str, ...], part: str) -> None:
    """Before they reach any machine, the workers' own options among them."""
    assert part in launch.refused(engine, *PRINTED[engine], *words, code=2)


@pytest.mark.parametrize("engine", ["slurm", "ray"])
@pytest.mark.parametrize(
    ("url", "warned"),
    [
        (None, "is a file on this machine"),
        ("sqlite:///lab.db", "is a file on this machine"),
        ("postgresql+psycopg://hpo@localhost/lab", "names this machine itself"),
        ("postgresql+psycopg:///lab?host=/run/postgresql", "names this machine itself"),
        (POSTGRES, None),
    ],
)
def test_a_database_of_this_machine_is_worth_a_line(
    launch: Launch, engine: str, url: str | None, warned: str | None
) -> None:
    """For an engine may have one machine alone, so it is not refused."""
    said = launch(engine, "--artifacts", "s3://bucket", url=url).stderr
    assert (warned in said) if warned else (said == "")


@pytest.mark.parametrize("engine", PRINTED)
def test_checkpoints_that_nobody_shares_are_worth_a_line(launch: Launch, engine: str) -> None:
    """Without a folder or a bucket."""
    warning = "keeps its own checkpoints"
    words = PRINTED[engine]
    assert warning in launch(engine, *words).stderr
    assert warning not in launch(engine, *words, "--artifacts", "s3://bucket").stderr
    assert warning not in launch(engine, *words, HPO_ARTIFACTS="s3://bucket").stderr
    assert warning not in launch(engine, *words, "--", "--artifacts", "s3://bucket").stderr


@pytest.mark.parametrize(("engine", "program"), [("slurm", "sbatch"), ("kubernetes", "kubectl"), ("ssh", "ssh")])
def test_a_missing_program_is_named(launch: Launch, tmp_path: Path, engine: str, program: str) -> None:
    """And what to do."""
    url = f"sqlite:///{tmp_path / 'hpo.db'}"
    made = open_engine(url)
    migrate.create_or_check(made)
    made.dispose()
    words = ("--host", "localhost") if engine == "ssh" else PRINTED[engine]
    line = launch.refused(engine, *words, "--submit", code=1, url=url, PATH=str(tmp_path))
    assert f"{program} is not installed here: " in line


def test_a_missing_ray_is_named(launch: Launch, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'hpo-service[ray]'" in launch.refused("ray", "--submit", code=1, url=sqlite_url)


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_a_database_without_tables_is_refused_here(launch: Launch, engine: str) -> None:
    """And not by each worker, on its machine."""
    assert "nowhere.db" in launch.refused(engine, "--submit", code=1, url="sqlite:///nowhere.db")


# --- Slurm --------------------------------------------------------------------------------------------------


def test_the_script_of_slurm(launch: Launch, tmp_path: Path) -> None:
    """Every line but those of the signals, which a real Slurm tries; bash reads it."""
    script = launch.text(
        "slurm",
        *("--count", "8", "--gpus", "1", "--time", "240", "--partition", "gpu", "--account", "lab", "--memory", "4"),
        *("--cpus", "2", "--artifacts", "shared", "--option=--constraint=a100", "--env", "A=b c", "--name", "fleet"),
        *("--", "--population", "64"),
    )
    head, _, rest = script.partition("worker=$!")
    assert head.splitlines() == [
        "#!/bin/bash",
        "#SBATCH --job-name=fleet",
        "#SBATCH --array=0-7",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --export=ALL",
        f"#SBATCH --output={tmp_path}/logs/fleet-%A_%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --mem=4096M",
        "#SBATCH --time=240",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --constraint=a100",
        "",
        "# The database's URL, or the name of the file that holds it, is in the environment of sbatch.",
        "export OMP_NUM_THREADS=1",
        "export A='b c'",
        f"export HPO_ARTIFACTS={tmp_path}/shared",
        "requeue=",
        f"{sys.executable} -m hpo worker --drain --population 64 &",
    ]
    assert "scontrol requeue" in rest
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_folder_that_no_script_can_name_is_refused(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a folder for logs."""
    launch.refused("slurm", "--logs", "a\n#SBATCH --uid=0", code=2)
    (tmp_path / NO_UTF8).mkdir()
    monkeypatch.chdir(tmp_path / NO_UTF8)
    for engine in ("slurm", "ray", "ssh"):
        assert "is not UTF-8" in launch.refused(engine, *PRINTED[engine], code=2)


@pytest.mark.parametrize("option", ["constraint=a100", "--constraint=a\n#SBATCH --uid=0", "-C"])
def test_options_of_sbatch_are_options(launch: Launch, option: str) -> None:
    """One each, and nothing else."""
    launch.refused("slurm", f"--option={option}", code=2)


# --- Kubernetes ---------------------------------------------------------------------------------------------


def manifest(launch: Launch, *words: str) -> dict[str, Any]:
    """What is printed for Kubernetes, valid by the schema of the API's newest version that is known here."""
    printed: dict[str, Any] = json.loads(launch.text("kubernetes", *IMAGE, *words))
    kubernetes_validate.validate(printed, kubernetes_validate.latest_version(), strict=True)
    return printed


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--lasting",),
        ("--gpus", "1", "--memory", "4", "--cpus", "2", "--count", "8"),
        ("--claim", "checkpoints", "--namespace", "lab", "--env-secret", "bucket"),
        ("--artifacts", "s3://bucket/hpo", "--env", "AWS_ENDPOINT_URL=https://s3.example"),
    ],
)
def test_manifests_are_valid(launch: Launch, words: tuple[str, ...]) -> None:
    """By the API's own schemas, unknown keys refused."""
    manifest(launch, *words)


def test_the_schema_refuses_what_is_wrong(launch: Launch) -> None:
    """The check above can fail."""
    printed = manifest(launch)
    printed["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(printed, kubernetes_validate.latest_version(), strict=True)


def test_a_job_of_kubernetes(launch: Launch) -> None:
    """Its workers are counted, get the GPUs, and read the URL from a secret's file."""
    printed = manifest(launch, "--count", "8", "--gpus", "1", "--memory", "4", "--", "--population", "64")
    assert (printed["kind"], printed["apiVersion"]) == ("Job", "batch/v1")
    assert (printed["spec"]["parallelism"], printed["spec"]["completions"]) == (8, 8)
    pod = printed["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 60
    (container,) = pod["containers"]
    assert container["args"] == ["worker", "--drain", "--population", "64", "--heartbeat", "/tmp/heartbeat"]
    assert container["resources"]["limits"] == {"memory": "4096Mi", "nvidia.com/gpu": "1"}
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["HPO_DATABASE_URL_FILE"] == "/run/hpo/url"
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/run/hpo"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "hpo-database"


def test_lasting_workers_are_a_deployment(launch: Launch) -> None:
    """Which starts again whatever ends."""
    printed = manifest(launch, "--count", "3", "--lasting")
    assert (printed["kind"], printed["spec"]["replicas"]) == ("Deployment", 3)
    assert printed["spec"]["template"]["spec"]["restartPolicy"] == "Always"


def test_the_probe_allows_for_the_lease(launch: Launch) -> None:
    """A worker touches its file four times a lease; the probe looks for twice as old a one, five minutes at least."""
    for words, minutes in (((), 5), (("--", "--lease", "3600"), 120)):
        spec = manifest(launch, *words)["spec"]["template"]["spec"]
        assert f"-mmin -{minutes})" in spec["containers"][0]["livenessProbe"]["exec"]["command"][-1]


def test_where_pods_keep_checkpoints(launch: Launch) -> None:
    """In a bucket or a volume, not in a folder of this machine, nor in both."""
    assert "--claim" in launch.refused("kubernetes", *IMAGE, "--artifacts", "/shared", code=2)
    both = ("--artifacts", "s3://bucket", "--claim", "checkpoints")
    assert "give one of them" in launch.refused("kubernetes", *IMAGE, *both, code=2)
    printed = manifest(launch, "--claim", "checkpoints")
    volumes = printed["spec"]["template"]["spec"]["volumes"]
    assert {"name": "artifacts", "persistentVolumeClaim": {"claimName": "checkpoints"}} in volumes


@pytest.mark.parametrize(
    "words",
    [
        ("--namespace", "A B"),
        ("--namespace", "a.b"),
        ("--namespace", "x" * 64),
        ("--claim", "Checkpoints"),
        ("--claim", "a..b"),
        ("--env-secret", "my secret"),
        ("--secret", "hpo_database"),
        ("--secret", ".".join(["x" * 63] * 4)),
        ("--image", "hpo cuda"),
        ("--image", "--hpo"),
    ],
)
def test_names_that_kubernetes_has_not_are_refused(launch: Launch, words: tuple[str, str]) -> None:
    """Which its schema does not say: the API server would."""
    assert words[0] in launch.refused("kubernetes", *IMAGE, *words, code=2)


def test_names_that_kubernetes_has(launch: Launch) -> None:
    words = {
        "--namespace": "2-lab",
        "--claim": "lab.checkpoints",
        "--env-secret": "0",
        "--image": "r.example:5000/A/b@c:d",
    }
    manifest(launch, *(word for pair in words.items() for word in pair))


# --- Ray ----------------------------------------------------------------------------------------------------


def test_the_actors_of_ray(launch: Launch) -> None:
    """Their names, shares of a node, and command; whole GPUs where there are several."""
    printed = json.loads(
        launch.text("ray", "--count", "2", "--gpus", "0.25", "--memory", "1", "--", "--device", "cuda")
    )
    assert printed["actors"] == ["hpo-0", "hpo-1"]
    assert printed["options"] == {"num_cpus": 1, "num_gpus": 0.25, "memory": 1 << 30, "max_restarts": -1}
    assert printed["command"] == "python -m hpo worker --drain --device cuda"
    assert "--gpus" in launch.refused("ray", "--gpus", "1.5", code=2)


# --- ssh ----------------------------------------------------------------------------------------------------


def test_the_script_of_ssh(launch: Launch, tmp_path: Path) -> None:
    """For each host the same; a shell reads it, and GPUs are dealt out."""
    (tmp_path / "hosts").write_text("gpu2  # in the cellar\n\n# gpu9\ngpu1\n")
    text = launch.text("ssh", "--host", "gpu1", "--hosts", "hosts", "--count", "4", "--gpus", "0.5")
    assert [line for line in text.splitlines() if line.startswith("#   ")] == [
        "#   ssh gpu1 sh -s",
        "#   ssh gpu2 sh -s",
    ]
    assert re.findall(r"CUDA_VISIBLE_DEVICES=(\d)", text) == ["0", "0", "1", "1"]
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "on which machines?"),
        (("--host", "-oProxyCommand=x"), "is no host"),
        (("--host", "a b"), "is no host"),
        (("--host", "a", "--ssh", "'unclosed"), "no closing quotation"),
        (("--host", "a", "--ssh", "''"), "names no program"),
        (("--hosts", "control"), "is no host"),
        (("--hosts", "none"), "No such file"),
        (("--hosts", "empty"), "no host stands there"),
    ],
)
def test_hosts_are_hosts(launch: Launch, tmp_path: Path, words: tuple[str, ...], part: str) -> None:
    """And none is an option of ssh."""
    (tmp_path / "empty").write_text("# nobody\n")
    (tmp_path / "control").write_text("gpu1\0\n")
    result = launch("ssh", *words)
    assert result.exit_code in (1, 2)
    assert part in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("url", [None, "sqlite:///lab.db"])
def test_other_hosts_cannot_use_a_sqlite_file(launch: Launch, url: str | None) -> None:
    """The embedded default among them; this machine itself can."""
    line = launch.refused("ssh", "--host", "user@gpu1", "--host", "localhost", code=2, url=url)
    assert "is a file on this machine" in line
    assert "gpu1" in line
    assert "localhost" not in line
    assert os.path.basename(sys.executable) in launch.text("ssh", "--host", "localhost", url=url)
