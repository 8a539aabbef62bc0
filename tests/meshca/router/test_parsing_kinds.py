"""Which documents are read, which are refused and how; objects that are there twice; broken ones beside good ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshca.router.mesh.objects import Origin, Parsed
from meshca.router.parsing.kinds import Parser
from tests.support.documents import ROUTE, TRUST_DOMAIN, document, istio, problems, read, rule

KNOWN = (
    "VirtualService, DestinationRule, ServiceEntry, WorkloadEntry, PeerAuthentication, AuthorizationPolicy, "
    "Telemetry, HTTPRoute, GRPCRoute"
)
ISTIO = "networking.istio.io"
VERSIONS = f"{ISTIO}/v1alpha3, {ISTIO}/v1beta1, {ISTIO}/v1"


ROUTES = "gateway.networking.k8s.io"
WORKLOADS = "write a WorkloadEntry for each instance, or a ServiceEntry with endpoints"
INCOMPLETE = "required: an object has an apiVersion and a kind"


@pytest.mark.parametrize(
    ("kind", "api_version", "expected"),
    [
        ("VirtualService", f"{ISTIO}/v2", f"VirtualService of '{ISTIO}/v2' is not read here, only of {VERSIONS}"),
        ("VirtualService", "v1", f"VirtualService of 'v1' is not read here, only of {VERSIONS}"),
        (
            "GRPCRoute",
            f"{ROUTES}/v1beta1",
            f"GRPCRoute of '{ROUTES}/v1beta1' is not read here, only of {ROUTES}/v1alpha2, {ROUTES}/v1",
        ),
        ("VirtualService", "~", INCOMPLETE),
    ],
)
def test_other_versions_are_refused_by_name(kind: str, api_version: str, expected: str):
    text = f"kind: {kind}\napiVersion: {api_version}\nmetadata: {{name: a}}\nspec: {{whatever: [it, is]}}\n"
    assert problems(text) == [f"1.yaml:2: {kind} default/a: apiVersion: {expected}"]


@pytest.mark.parametrize(
    ("kind", "api_version", "expected"),
    [
        ("EnvoyFilter", f"{ISTIO}/v1alpha3", f"'EnvoyFilter' of '{ISTIO}/v1alpha3' is not supported by meshca"),
        ("Gateway", f"{ROUTES}/v1", f"'Gateway' of '{ROUTES}/v1' is not supported by meshca"),
        (
            "WasmPlugin",
            "extensions.istio.io/v1alpha1",
            "'WasmPlugin' of 'extensions.istio.io/v1alpha1' is not supported by meshca",
        ),
        (
            "VirtualServices",
            f"{ISTIO}/v1",
            f"'VirtualServices' of '{ISTIO}/v1' is not supported by meshca, did you mean `VirtualService`?",
        ),
        (
            "Service",
            "v1",
            "'Service' of 'v1' is not read here: write a ServiceEntry with the hosts, ports and endpoints",
        ),
        ("Deployment", "apps/v1", f"'Deployment' of 'apps/v1' is not read here: {WORKLOADS}"),
        (
            "List",
            "v1",
            "'List' of 'v1' is not read here: write its items as documents of their own, with --- between them",
        ),
        ("Pizza", "food/v1", f"'Pizza' of 'food/v1' is not read here: meshca reads {KNOWN}"),
    ],
)
def test_other_kinds_are_refused_by_name_and_with_what_to_write_instead(kind: str, api_version: str, expected: str):
    text = f"apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{whatever: [it, is]}}\n"
    assert problems(text) == [f"1.yaml:2: {kind} default/a: kind: {expected}"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("5", INCOMPLETE), ('"a\\nb"', f"'a\\nb' of 'v1' is not read here: meshca reads {KNOWN}")],
)
def test_a_kind_that_can_not_be_shown_is_not_shown_as_it_is(kind: str, expected: str):
    assert problems(f"apiVersion: v1\nkind: {kind}\nmetadata: {{name: a}}\n") == [
        f"1.yaml:2: default/a: kind: {expected}"
    ]


def test_what_is_no_object_at_all_is_refused():
    assert problems("a: 1\n---\n- b\n---\nkind: [x]\n---\n") == [
        "1.yaml:1: apiVersion: required: an object has an apiVersion and a kind",
        "1.yaml:3: expected an object with a kind, found a list",
        "1.yaml:5: apiVersion: required: an object has an apiVersion and a kind",
    ]


def test_a_broken_object_never_harms_the_others():
    good = [
        istio("VirtualService", f"{{hosts: [a], http: [{{{ROUTE}}}]}}", metadata=f"name: a{number}")
        for number in range(3)
    ]
    broken = [rule("timeout: 5"), "a: [", "a: *b", "a: 1\na: 2\n", document("Service", "{}", group="core")]
    parsed = read("---\n".join([good[0], *broken, good[1]]), *broken, good[2])
    assert [found.origin.name for found in parsed.objects] == ["a0", "a1", "a2"]
    assert {problem.file for problem in parsed.problems} == {f"{number}.yaml" for number in range(1, 7)}


def test_a_document_with_a_fault_is_read_for_its_other_problems_but_not_used():
    text = rule(f"{ROUTE}, timeout: 5") + "kind: VirtualService\n"
    parsed = read(text)
    assert (parsed.objects, list(map(str, parsed.problems))) == (
        (),
        [
            "1.yaml:5: VirtualService default/a: spec.http[0].timeout: expected a duration such as `1.5s`, `100ms` or `1h`, found 5",
            "1.yaml:6: VirtualService default/a: the key 'kind' is there twice, first on line 2",
        ],
    )


def test_of_two_objects_with_one_name_the_first_stays_and_both_are_told():
    text = rule(ROUTE)
    parsed = read(text, istio("WorkloadEntry", "{address: 10.0.0.1}"), text)
    assert [found.origin for found in parsed.objects] == [
        Origin("1.yaml", 1, "VirtualService", "default", "a"),
        Origin("2.yaml", 1, "WorkloadEntry", "default", "a"),
    ]
    assert list(map(str, parsed.problems)) == [
        "3.yaml:1: VirtualService default/a: is there twice: that of 1.yaml:1 is used"
    ]
    assert list(map(str, parsed.warnings)) == [
        "1.yaml:1: VirtualService default/a: is there twice: this is used, not that of 3.yaml:1"
    ]


def test_of_two_policies_with_one_name_that_differ_neither_is_said_to_be_used():
    one, other = (istio("AuthorizationPolicy", f"{{action: {each}, rules: [{{}}]}}") for each in ("DENY", "ALLOW"))
    parsed = read(one, other)
    assert (parsed.objects, parsed.warnings) == ((), ())
    assert list(map(str, parsed.problems)) == [
        "1.yaml:1: AuthorizationPolicy default/a: is there twice, and otherwise at 2.yaml:1: neither is used",
        "2.yaml:1: AuthorizationPolicy default/a: is there twice, and otherwise at 1.yaml:1: neither is used",
    ]


def test_objects_of_other_namespaces_and_broken_ones_are_no_doubles():
    spec = f"{{hosts: [a], http: [{{{ROUTE}}}]}}"
    parsed = read(
        rule("name: broken"),
        istio("VirtualService", spec),
        istio("VirtualService", spec, metadata="name: a, namespace: b"),
    )
    assert [found.origin.file for found in parsed.objects] == ["2.yaml", "3.yaml"]
    assert [problem.file for problem in parsed.problems] == ["1.yaml"]


def test_files_are_read_in_the_order_of_their_names():
    documents = {"b.yaml": rule(ROUTE), "a.yaml": rule(ROUTE)}
    assert [found.origin.file for found in Parser(TRUST_DOMAIN).parse(documents).objects] == ["a.yaml"]


def test_what_did_not_change_is_not_parsed_anew():
    parser = Parser(TRUST_DOMAIN)
    before = parser.parse({"a.yaml": rule(ROUTE), "b.yaml": istio("VirtualService", "{hosts: [b]}")})
    after = parser.parse({"a.yaml": rule(ROUTE), "b.yaml": istio("VirtualService", "{hosts: [c]}")})
    assert after.objects[0] is before.objects[0]
    assert after.problems == before.problems


class Text(str):
    """A text that counts how often it is looked through."""

    __slots__ = ("looks",)

    def removeprefix(self, prefix: str, /) -> str:
        self.looks += 1
        return super().removeprefix(prefix)


def test_a_file_that_did_not_change_is_not_looked_through_again():
    parser, text = Parser(TRUST_DOMAIN), Text("kind: Nothing")
    text.looks = 0
    for other in ("kind: One", "kind: Two"):
        assert len(parser.parse({"a.yaml": text, "b.yaml": other}).problems) == 2
    assert text.looks == 1


def test_what_moves_within_its_file_knows_its_new_line():
    parser = Parser(TRUST_DOMAIN)
    (before,) = parser.parse({"a.yaml": rule(ROUTE)}).objects
    (after,) = parser.parse({"a.yaml": "# one line more\n" + rule(ROUTE)}).objects
    assert after.origin.line == before.origin.line + 1


def test_nothing_at_all_is_nothing():
    assert read() == Parsed()
    assert read("# only a comment\n") == Parsed()


scalars = st.sampled_from(
    [
        "",
        "~",
        "a",
        "yes",
        "1",
        "-1",
        "1.5",
        "1s",
        "0s",
        "'*'",
        "'/a'",
        "10.0.0.1",
        "STATIC",
        "HTTP",
        "'(a'",
        "'%x'",
        "é",
        "'spiffe://a/b'",
        "''",
    ]
)
names = st.sampled_from(
    [
        *(
            "hosts",
            "http",
            "route",
            "destination",
            "host",
            "subset",
            "port",
            "number",
            "weight",
            "match",
            "uri",
            "exact",
        ),
        *(
            "prefix",
            "regex",
            "headers",
            "request",
            "set",
            "timeout",
            "retries",
            "attempts",
            "retryOn",
            "fault",
            "delay",
        ),
        *("fixedDelay", "percentage", "value", "redirect", "rewrite", "uriRegexRewrite", "mirror", "mirrors", "status"),
        *("directResponse", "body", "trafficPolicy", "subsets", "name", "labels", "portLevelSettings", "tls", "mode"),
        *("loadBalancer", "simple", "ports", "protocol", "resolution", "endpoints", "address", "serviceAccount"),
        *("selector", "matchLabels", "mtls", "portLevelMtls", "rules", "from", "source", "principals", "to", "paths"),
        *("operation", "tracing", "customTags", "literal", "accessLogging", "providers", "parentRefs", "kind", "group"),
        *("matches", "path", "type", "method", "service", "backendRefs", "filters", "urlRewrite", "replacePrefixMatch"),
        *("requestMirror", "fraction", "timeouts", "retry", "codes", "workloadSelector", "subjectAltNames", "x"),
        *("per_try_timeout", "8080"),
    ]
)
trees = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=3).map(lambda items: f"[{', '.join(items)}]")
    | st.dictionaries(names, below, max_size=6).map(lambda items: "{" + ", ".join(f"{key}: {each}" for key, each in items.items()) + "}"),
    max_leaves=25,
)  # fmt: skip
kinds = st.sampled_from(
    [
        *(
            f"networking.istio.io/v1\nkind: {kind}"
            for kind in ("VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry")
        ),
        *(f"security.istio.io/v1\nkind: {kind}" for kind in ("PeerAuthentication", "AuthorizationPolicy")),
        *(f"gateway.networking.k8s.io/v1\nkind: {kind}" for kind in ("HTTPRoute", "GRPCRoute")),
        "telemetry.istio.io/v1\nkind: Telemetry",
    ]
)


@given(kinds, trees, trees)
def test_no_structure_whatever_raises(kind: str, metadata: str, spec: str):
    parsed = read(
        f"apiVersion: {kind}\nmetadata: {metadata}\nspec: {spec}\n",
        f"apiVersion: {kind}\nmetadata: {{name: a}}\nspec: {spec}",
    )
    assert len(parsed.objects) <= 2
    assert parsed.objects or parsed.problems


@given(st.text())
def test_no_text_whatever_raises(text: str):
    assert read(text).objects == ()
