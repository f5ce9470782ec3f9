"""Kubernetes: a Job whose workers end by themselves, or a Deployment of lasting ones; the image is the Dockerfile's."""

import json
import math
from dataclasses import dataclass
from typing import Any

from hpo.launch.launcher import LaunchFailed, WorkerRequest, call

USER = 1000  # of the image; a number, for the kubelet does not look a name up
GRACE_SECONDS = 60  # from SIGTERM to SIGKILL; a worker ends within 10
RETRIES = 6  # of a worker that fails, in a Job; those that were evicted do not count
HEARTBEAT, FRESH_SECONDS = "/tmp/heartbeat", 300  # for a worker that has not touched it for so long is taken for stuck
START_SECONDS = 600  # until there is a first heartbeat: images to load, kernels to choose
SECRETS, ARTIFACTS = "/run/hpo", "/artifacts"  # where volumes are mounted
_NEEDED = "install it and name a cluster (`kubectl cluster-info`); without --submit the manifest is printed"


@dataclass(frozen=True, kw_only=True)
class KubernetesLauncher:
    """A manifest for kubectl."""

    image: str
    secret: str  # whose key `url` holds the database's URL
    namespace: str | None = None  # None: that of kubectl's context
    claim: str | None = None  # PersistentVolumeClaim for checkpoints, which all nodes can write
    variables: str | None = None  # secret whose keys become environment variables

    def render(self, request: WorkerRequest) -> str:
        """The manifest, as JSON, which kubectl reads as well as YAML."""
        return json.dumps(self.manifest(request), indent=2) + "\n"

    def submit(self, request: WorkerRequest) -> str:
        """Give the manifest to kubectl, on its stdin."""
        kubectl = ["kubectl", *(["--namespace", self.namespace] if self.namespace else [])]
        try:
            call([*kubectl, "get", "secret", self.secret, "--output=name"], "", needed=_NEEDED)
        except LaunchFailed as error:
            if "NotFound" not in str(error):
                raise
            raise LaunchFailed(
                f"the cluster has no secret {self.secret}; make it with `kubectl create secret generic {self.secret} "
                "--from-file=url=FILE`, where FILE holds the database's URL"
            ) from error
        call([*kubectl, "apply", "--filename=-"], self.render(request), needed=_NEEDED)
        kind = "deployment" if request.lasting else "job"
        return f"{kind} {request.name}: {request.count} worker(s); `kubectl delete {kind} {request.name}` stops them"

    def manifest(self, request: WorkerRequest) -> dict[str, Any]:
        """The Job or the Deployment."""
        labels = {"app.kubernetes.io/name": "hpo", "app.kubernetes.io/instance": request.name}
        metadata = {"name": request.name, "labels": labels, **({"namespace": self.namespace} if self.namespace else {})}
        template = {"metadata": {"labels": labels}, "spec": self._pod(request)}
        if request.lasting:
            spec: dict[str, Any] = {
                "replicas": request.count,
                "selector": {"matchLabels": labels},
                "template": template,
            }
            return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
        spec = {
            "parallelism": request.count,
            "completions": request.count,
            "completionMode": "Indexed",  # a worker that has ended is not started again, one that failed is
            "backoffLimitPerIndex": RETRIES,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailIndex",  # wrong usage stays wrong
                        "onExitCodes": {"containerName": "worker", "operator": "In", "values": [2]},
                    },
                ]
            },
            "template": template,
        }
        return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}

    def _pod(self, request: WorkerRequest) -> dict[str, Any]:
        volumes: dict[str, dict[str, Any]] = {  # by mount path
            SECRETS: {"name": "database", "secret": {"secretName": self.secret, "defaultMode": 0o440}},
            "/tmp": {"name": "scratch", "emptyDir": {}},
            ARTIFACTS: {"name": "artifacts", "emptyDir": {}}
            if self.claim is None
            else {"name": "artifacts", "persistentVolumeClaim": {"claimName": self.claim}},
        }
        return {
            "restartPolicy": "Always" if request.lasting else "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "shareProcessNamespace": True,  # the sandbox reaps what a user's code leaves behind
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": list(volumes.values()),
            "containers": [self._container(request, {path: volume["name"] for path, volume in volumes.items()})],
        }

    def _container(self, request: WorkerRequest, mounts: dict[str, str]) -> dict[str, Any]:
        environment = {
            "HPO_DATABASE_URL_FILE": f"{SECRETS}/url",  # a file: read again where the password has changed
            "HPO_ARTIFACTS": ARTIFACTS,
            "OMP_NUM_THREADS": "1",
            **request.environment,
        }
        memory = {"memory": f"{request.memory_mib}Mi"} if request.memory_mib else {}
        gpus = {"nvidia.com/gpu": f"{request.gpus:g}"} if request.gpus else {}
        fresh = math.ceil(max(FRESH_SECONDS, 2 * request.lease_seconds) / 60)  # minutes
        return {
            "name": "worker",
            "image": self.image,
            "args": [*request.arguments, "--heartbeat", HEARTBEAT],
            "env": [{"name": name, "value": value} for name, value in environment.items()],
            **({"envFrom": [{"secretRef": {"name": self.variables}}]} if self.variables else {}),
            "resources": {"requests": {"cpu": str(request.cpus), **memory}, "limits": {**memory, **gpus}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": name, "mountPath": path, **({"readOnly": True} if path == SECRETS else {})}
                for path, name in mounts.items()
            ],
            "startupProbe": {
                "exec": {"command": ["test", "-e", HEARTBEAT]},
                "periodSeconds": 5,
                "failureThreshold": START_SECONDS // 5,
            },
            # Not the database: while that is away workers train on, and should not be restarted.
            "livenessProbe": {
                "exec": {"command": ["sh", "-c", f'test -n "$(find {HEARTBEAT} -mmin -{fresh})"']},
                "periodSeconds": 60,
                "timeoutSeconds": 10,
            },
        }
