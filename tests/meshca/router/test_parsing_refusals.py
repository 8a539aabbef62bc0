"""What is wrong with an object is told by file, line and field: all of it, and in words that help."""

import pytest

from tests.support.documents import ROUTE, istio, problems, read, rule
from tests.vectors.refusals import cases, told

CASES = list(cases())
GOOD = f"{{hosts: [a], http: [{{{ROUTE}}}]}}"


@pytest.mark.parametrize(("case", "expected"), CASES, ids=[case for case, _ in CASES])
def test_what_is_wrong_is_told_exactly_so(case: str, expected: list[str]):
    assert expected, "a case in which nothing is wrong"
    assert told(case) == expected, "the words changed; if on purpose: python -m tests.vectors.refusals"


def test_each_problem_stands_at_its_own_line_and_they_are_in_order():
    text = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: shop
  namespace: Shop
spec:
  http:
  - route:
    - destination:
        host: a
      weight: 95
    - destination:
        host: b
      wieght: 5
    corsPolicy:
      allowOrigins: []
    timeout: 5
  hosts:
  - a_b
"""
    assert problems(text) == [
        (
            "1.yaml:5: VirtualService Shop/shop: metadata.namespace: "
            "'Shop' is not a name of at most 63 lower-case letters, digits and -"
        ),
        "1.yaml:14: VirtualService Shop/shop: spec.http[0].route[1].wieght: unknown field, did you mean `weight`?",
        "1.yaml:15: VirtualService Shop/shop: spec.http[0].corsPolicy: not supported by meshca",
        (
            "1.yaml:17: VirtualService Shop/shop: spec.http[0].timeout: "
            "expected a duration such as `1.5s`, `100ms` or `1h`, found 5"
        ),
        "1.yaml:19: VirtualService Shop/shop: spec.hosts[0]: 'a_b' is not a host name",
    ]


def test_an_address_that_holds_on_one_link_only_is_none():
    """Python takes it, Envoy does not."""
    ports = "ports: [{number: 80, name: http, protocol: HTTP}]"
    spec = f"{{hosts: [a], {ports}, resolution: STATIC, endpoints: [{{address: 'fe80::1%eth0'}}]}}"
    (problem,) = problems(istio("ServiceEntry", spec))
    assert problem.endswith("spec.endpoints[0].address: 'fe80::1%eth0' is not an IP address")


def test_a_flood_of_problems_is_cut_off():
    unknown = ", ".join(f"field{number}: 1" for number in range(5_000))
    assert len(problems(istio("VirtualService", f"{{hosts: [a], http: [{{{ROUTE}}}], {unknown}}}"))) == 100


def test_a_flood_of_bad_values_is_cut_off_too():
    hosts = ", ".join(["5"] * 500)
    assert len(problems(istio("VirtualService", f"{{hosts: [{hosts}], http: [{{{ROUTE}}}], unknown: x}}"))) == 100


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("hosts", ", ".join(["a"] * 10_001)),
        ("http", ", ".join([f"{{{ROUTE}}}"] * 10_001)),
    ],
)
def test_a_list_that_nobody_writes_is_not_read(field: str, text: str):
    other = {"hosts": f"http: [{{{ROUTE}}}]", "http": "hosts: [a]"}[field]
    assert problems(istio("VirtualService", f"{{{field}: [{text}], {other}}}")) == [
        f"1.yaml:5: VirtualService default/a: spec.{field}: 10001 items are too many: 10000 are read"
    ]


def test_a_flood_of_warnings_is_cut_off():
    shares = ", ".join(["{destination: {host: a}}"] * 500)
    parsed = read(
        istio(
            "VirtualService", f"{{hosts: [a], http: [{{route: [{{destination: {{host: a}}, weight: 1}}, {shares}]}}]}}"
        )
    )
    assert (parsed.problems, len(parsed.objects), len(parsed.warnings)) == ((), 1, 100)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("namespace: b", "VirtualService: metadata.name: required"),
        (
            "name: A",
            "VirtualService default/A: metadata.name: 'A' is not a name of lower-case letters, digits, - and .",
        ),
        ("name: 5", "VirtualService: metadata.name: expected text, but YAML takes '5' for a number: quote it"),
        (
            'name: "a\\nb"',
            "VirtualService: metadata.name: 'a\\nb' is not a name of lower-case letters, digits, - and .",
        ),
    ],
)
def test_a_name_must_be_one(metadata: str, expected: str):
    assert problems(istio("VirtualService", GOOD, metadata=metadata)) == [f"1.yaml:3: {expected}"]


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("labels: {version: 1.0}", "labels.version: expected text, but YAML takes '1.0' for a number: quote it"),
        ("label: {}", "label: unknown field, did you mean `labels`?"),
        ("annotations: {a: true}", "annotations.a: expected text, but YAML takes 'true' for a boolean: quote it"),
        ("annotations: [a]", "annotations: expected a mapping, found a list"),
        (
            "annotations: {meshca.dev/source-principal: 'spiffe://example.org/a'}",
            "annotations[meshca.dev/source-principal]: unknown field, did you mean `meshca.dev/source-principals`?",
        ),
        ("annotations: {meshca.dev/source-principals: ''}", "annotations[meshca.dev/source-principals]: is empty"),
        (
            "annotations: {meshca.dev/source-principals: 'spiffe://example.org'}",
            (
                "annotations[meshca.dev/source-principals]: "
                "spiffe://example.org is a trust domain, not a workload: add a path"
            ),
        ),
        (
            "annotations: {meshca.dev/source-principals: 'spiffe://example.org/a,web'}",
            "annotations[meshca.dev/source-principals]: SPIFFE ID 'web' does not start with spiffe:// (ID-01)",
        ),
    ],
)
def test_metadata_is_checked_too(metadata: str, expected: str):
    text = istio("VirtualService", GOOD, metadata=f"name: a, {metadata}")
    assert problems(text) == [f"1.yaml:3: VirtualService default/a: metadata.{expected}"]


def test_an_endpoint_has_one_identity():
    metadata = "name: a, annotations: {meshca.dev/spiffe-id: 'spiffe://example.org/x'}"
    assert problems(istio("WorkloadEntry", "{address: 10.0.0.1, serviceAccount: b}", metadata=metadata)) == [
        (
            "1.yaml:5: WorkloadEntry default/a: spec.serviceAccount: is spiffe://example.org/ns/default/sa/b, "
            "but the annotation meshca.dev/spiffe-id says spiffe://example.org/x"
        )
    ]


def test_a_dry_run_that_is_neither_true_nor_false_is_refused():
    metadata = "name: a, annotations: {istio.io/dry-run: 'yes'}"
    assert problems(istio("AuthorizationPolicy", "{}", metadata=metadata)) == [
        (
            "1.yaml:3: AuthorizationPolicy default/a: metadata.annotations[istio.io/dry-run]: "
            "'yes' is neither 'true' nor 'false'"
        )
    ]


def test_a_body_that_envoy_would_not_take_is_refused():
    (told_of_it,) = problems(rule("directResponse: {status: 200, body: {string: " + "é" * 600_000 + "}}"))
    assert told_of_it.endswith("body.string: 1200000 bytes are too many: 1048576 are possible")


def test_an_object_without_metadata_is_refused():
    text = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nspec: {address: 10.0.0.1}\nsepc: {}\n"
    assert problems(text) == [
        "1.yaml:1: WorkloadEntry: metadata: required",
        "1.yaml:4: WorkloadEntry: sepc: unknown field, did you mean `spec`?",
    ]
