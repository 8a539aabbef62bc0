import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("proto", sorted(ROOT.glob("sds/proto/*.proto")), ids=lambda path: path.name)
def test_generated_stubs_are_those_of_their_proto(proto: Path, tmp_path: Path):
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "pyi")]
    source = proto.relative_to(ROOT)
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, source], cwd=ROOT, check=True)
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(made) == 3
    for path in made:
        kept = ROOT / path.relative_to(tmp_path)
        assert path.read_text() == kept.read_text(), f"{kept} is stale: run `make protos`"


def test_the_workload_api_has_no_package_and_only_the_calls_of_the_standard():
    from sds.proto import workload_pb2  # noqa: PLC0415 - registers names that another test process may own

    service = workload_pb2.DESCRIPTOR.services_by_name["SpiffeWorkloadAPI"]
    assert service.full_name == "SpiffeWorkloadAPI"
    assert {method.name: method.server_streaming for method in service.methods} == {
        "FetchX509SVID": True,
        "FetchX509Bundles": True,
        "FetchJWTSVID": False,
        "FetchJWTBundles": True,
        "ValidateJWTSVID": False,
        "FetchWITSVID": True,
        "FetchWITBundles": True,
    }
