"""The example of deploy/kustomize as a cluster would have it, and its containers as processes in a network namespace of their own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

from meshca.demo.envoys import envoy_binary, stop
from tests.support.netns import Namespace

Json = dict[str, Any]

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = DEPLOY / "kustomize"
PROGRAMS = {"python": [sys.executable], "envoy": [str(envoy_binary())]}


def objects() -> list[Json]:
    """What `kustomize build` prints, but for the hashes in the names of ConfigMaps."""
    wanted = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())
    read = [each for name in wanted["resources"] for each in yaml.safe_load_all((EXAMPLE / name).read_text())]
    maps = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": each["name"]},
            "data": {name: (EXAMPLE / name).read_text() for name in each["files"]},
        }
        for each in wanted["configMapGenerator"]
    ]
    return [*maps, *read]


def pod() -> Json:
    """The pod's specification."""
    (found,) = [each["spec"]["template"]["spec"] for each in objects() if each["kind"] == "Deployment"]
    return dict(found)


def containers() -> dict[str, Json]:
    """All of its containers by name, in the order of their start."""
    return {each["name"]: each for each in (*pod()["initContainers"], *pod()["containers"])}


def image() -> DockerfileParser:
    """Our Dockerfile."""
    return DockerfileParser(fileobj=BytesIO((DEPLOY / "Dockerfile").read_bytes()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """Where the example runs: paths of containers are below `root`. They share one: each volume is at one path only."""

    where: Namespace
    root: Path

    def lay_out(self) -> None:
        """Make the volumes as the kubelet does: owned by root, and for the pod's group."""
        contents = {each["metadata"]["name"]: each["data"] for each in objects() if each["kind"] == "ConfigMap"}
        volumes = {each["name"]: each.get("configMap", {}).get("name") for each in pod()["volumes"]}
        for mount in (mount for each in containers().values() for mount in each["volumeMounts"]):
            directory = self._inside(mount["mountPath"])
            directory.mkdir(parents=True, exist_ok=True)
            os.chown(directory, 0, pod()["securityContext"]["fsGroup"])
            directory.chmod(0o2777)
            for name, text in contents.get(volumes[mount["name"]], {}).items():
                (directory / name).write_text(self._moved(text))

    @asynccontextmanager
    async def running(self, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """A container, until the context ends."""
        spec = containers()[name]
        command = [*spec.get("command", ["/opt/meshca/bin/meshca"]), *spec.get("args", [])]
        process = await self.start(name, *command)
        try:
            yield process
        finally:
            await stop(process)

    async def start(self, name: str, *command: str, **given: Any) -> asyncio.subprocess.Process:
        """A command in a container, as `kubectl exec` would start it. What belongs to the test it may read, and nothing else."""
        program, *arguments = map(self._moved, command)
        found = PROGRAMS.get(program, [sys.executable, "-m", "meshca"] if program.endswith("/meshca") else [program])
        user = containers()[name]["securityContext"]
        groups = f"--groups={pod()['securityContext']['fsGroup']}"
        rights = ["--no-new-privs", "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        ids = [f"--reuid={user['runAsUser']}", f"--regid={user['runAsGroup']}", groups]
        return await asyncio.create_subprocess_exec(
            *self.where.command("setpriv", *ids, *rights, *found, *arguments),
            cwd=self.root,
            env=self._environment(),
            stdin=asyncio.subprocess.DEVNULL,
            **given,
        )

    async def run(self, name: str, *command: str) -> tuple[int, str]:
        """Run a command in a container to its end; its code and what it said."""
        process = await self.start(name, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    def _environment(self) -> Mapping[str, str]:
        """The image's, with the places below our root, and with no place for what forgets that the file system can not be written."""
        said = {name: self._moved(value) for name, value in image().envs.items() if name != "PATH"}
        places = {"XDG_RUNTIME_DIR": str(self.root / "run"), "XDG_STATE_HOME": str(self.root / "var/lib")}
        coverage = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**said, **places, **coverage, "PATH": path, "TMPDIR": "/nonexistent"}

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _moved(self, text: str) -> str:
        for path in {mount["mountPath"] for each in containers().values() for mount in each["volumeMounts"]}:
            text = text.replace(path, str(self._inside(path)))
        return text
