"""The file of declared steps: what is taken, and how it is said what is wrong with it."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl_server.pipeline import steps as module
from edgectl_server.pipeline.errors import PipelineRefused
from edgectl_server.pipeline.steps import Processing, decode_steps, labels_of

HEAD = '[[input]]\nname="x"\ndatatype="UINT8"\nlayout="NHWC"\nshape=["N", 4, 4, 3]\n'
OUT = '[[output]]\nname="y"\n'
CAST = '{do="cast",to="FP32"},'
NINES = "9" * 5000


def refusal(text):
    with pytest.raises(PipelineRefused) as caught:
        decode_steps(text)
    error = caught.value
    assert error.code == "processing.invalid"
    assert error.detail.endswith(".")
    assert error.hint.endswith(".")
    assert len(error.detail) < 1000
    return error


def test_the_example_of_the_module():
    example = re.search(r"::\n\n(.*?)\n\n``tensor``", module.__doc__, re.DOTALL)[1]
    found = decode_steps(re.sub(r"^    ", "", example, flags=re.MULTILINE))
    assert [type(step).__name__ for step in found.input[0].steps] == ["Resize", "Layout", "Scale"]
    assert found.output[0].tensor == "logits"


@pytest.mark.parametrize(("do", "text"), module._EXAMPLES.items())
def test_every_example_of_an_error_is_right(do, text):
    inputs = {one.__struct_config__.tag for one in module.InputStep.__args__}
    head = HEAD if do in inputs else OUT
    found = decode_steps(f"{head}steps=[{text}]")
    entry = (found.input or found.output)[0]
    assert entry.steps[0].__struct_config__.tag == do


def test_every_step_has_an_example():
    kinds = (*module.InputStep.__args__, *module.OutputStep.__args__)
    assert {kind.__struct_config__.tag for kind in kinds} == set(module._EXAMPLES)


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (HEAD + 'steps=[{do="normalize",mean=[1,2],std=[1]}]', "input[0].steps[0]", "as many"),
        (HEAD + 'steps=[{do="normalize",mean=[1,nan],std=[1,2]}]', "mean[1]", "float"),
        (HEAD + 'steps=[{do="normalize",mean=[1,inf],std=[1,2]}]', "mean[1]", "float"),
        (HEAD + 'steps=[{do="normalize",mean=0,std=0}]', "std", "1e-12"),
        (HEAD + 'steps=[{do="normalize",mean=0,std=-1}]', "std", "1e-12"),
        (HEAD + 'steps=[{do="normalize",mean=[],std=1}]', "mean", "length >= 1"),
        (HEAD + f'steps=[{{do="normalize",mean={[0] * 5000},std=1}}]', "mean", "length <= 4096"),
        (HEAD + 'steps=[{do="resize",height=2147483648,width=1}]', "height", "<= 8192"),
        (HEAD + 'steps=[{do="resize",height=9223372036854775808,width=1}]', "height", "int"),
        (HEAD + 'steps=[{do="resize",height=-1,width=1}]', "height", ">= 1"),
        (HEAD + 'steps=[{do="resize",height=1.5,width=1}]', "height", "int"),
        (HEAD + 'steps=[{do="resize",height=4,width=4,mode="cubic"}]', "mode", "cubic"),
        (HEAD + 'steps=[{do="rasize"}]', "steps[0].do", "rasize"),
        (HEAD + 'steps=[{do="softmax"}]', "steps[0].do", "softmax"),
        (HEAD + "steps=[{height=1}]", "steps[0]", "do"),
        (HEAD + "steps=[1]", "steps[0]", "object"),
        (HEAD + "steps=[]", "input[0].steps", "length >= 1"),
        (HEAD + 'steps=[{do="cast",to="FP32",x=1}]', "steps[0]", "x"),
        (HEAD + 'steps=[{do="cast",to="BYTES"}]', "to", "BYTES"),
        (HEAD + 'steps=[{do="scale",divide=0}]', "divide", "1e-12"),
        (HEAD + 'steps=[{do="clip",minimum=1,maximum=1}]', "steps[0]", "below"),
        (HEAD + 'steps=[{do="window",length=0,hop=1}]', "length", ">= 1"),
        (HEAD + 'steps=[{do="layout",to="NCCH"}]', "steps[0]", "NCCH"),
        (HEAD + 'steps=[{do="layout",to="NHWC\\n"}]', "steps[0]", "such as NCHW"),
        (HEAD + "steps=[" + CAST * 1000 + "]", "input[0].steps", "length <= 16"),
        (HEAD + "steps=[" + CAST * 10000 + "]", "", "longer than"),
        ((HEAD + 'steps=[{do="cast",to="FP32"}]\n') * 65, "input", "length <= 64"),
        (HEAD.replace("3]", "-1]") + 'steps=[{do="scale"}]', "input[0]", "size for C"),
        (HEAD.replace("3]", "0]") + 'steps=[{do="scale"}]', "input[0]", "size for C"),
        (HEAD.replace("4, 3]", "4]") + 'steps=[{do="scale"}]', "input[0]", "NHWC"),
        (HEAD.replace('"N"', "7") + 'steps=[{do="scale"}]', "input[0]", "the batch"),
        (HEAD.replace('"NHWC"', '"HWCN"') + 'steps=[{do="scale"}]', "input[0]", "N first"),
        (HEAD.replace("UINT8", "BOOL") + 'steps=[{do="scale"}]', "datatype", "BOOL"),
        (HEAD.replace('"x"', '"a\\u0000b"') + 'steps=[{do="scale"}]', "name", "control"),
        (HEAD.replace('"x"', f'"{"x" * 257}"') + 'steps=[{do="scale"}]', "name", "256"),
        (HEAD + 'labels=["a"]\nsteps=[{do="scale"}]', "input[0]", "labels"),
        (OUT + 'steps=[{do="top_k",k=1},{do="softmax"}]', "output[0]", "last"),
        (OUT + 'steps=[{do="top_k",k=100000}]', "k", "<= 1024"),
        (OUT + 'steps=[{do="threshold",minimum=nan}]', "minimum", "float"),
        (OUT + 'steps=[{do="softmax",axis=99}]', "axis", "<= 7"),
        (OUT + f'steps=[{{do="labels",names={["a"] * 1025}}}]', "names", "1024"),
        (OUT + 'steps=[{do="log_mel"}]', "steps[0].do", "log_mel"),
        (HEAD + 'steps=[{do="log_mel",rate=8000,frame=256,hop=80,bands=9,high_hz=5000}]',
         "steps[0]", "half"),
        ("inputs = []", "", "inputs"),
        ("", "", "at least one"),
        ("input = 3", "input", "array"),
        ("[[input", "", "TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "", "TOML"),
        (f"a = {NINES}", "", "TOML"),
        ("a." * 15000 + "a = 1", "", "parts"),
        ("'a' .\t" * 5000 + "a = 1", "", "parts"),
    ],
    ids=lambda one: one[-40:] if isinstance(one, str) else None,
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_key_and_an_example(text, key, says):
    error = refusal(text)
    assert key in error.detail
    assert says in error.detail, error.detail
    assert re.search(r"\{do = |\[\[(in|out)put\]\]|Declare fewer", error.hint)


def test_class_names_are_given_once():
    entry = OUT + 'steps=[{do="labels",names=["a","b"]}]\n'
    assert labels_of(decode_steps(entry)) == ("a", "b")
    assert labels_of(decode_steps(OUT + 'steps=[{do="softmax"}]')) == ()
    with pytest.raises(PipelineRefused, match="2 times"):
        labels_of(decode_steps(entry + entry))


keys = st.sampled_from(
    ["input", "output", "do", "steps", "mean", "std", "to", "shape", "layout", "datatype", "name",
     "height", "width", "k", "axis"]
)  # fmt: skip
values = st.recursive(
    st.one_of(
        st.sampled_from(["resize", "layout", "NHWC", "N", "FP32", "softmax", "top_k"]),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=20,
)


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.dictionaries(keys, values, max_size=3))
def test_any_document_is_taken_or_refused(document):
    text = "\n".join(f"{key} = {_toml(value)}" for key, value in document.items())
    try:
        assert isinstance(decode_steps(text), Processing)
    except PipelineRefused as error:
        assert error.code == "processing.invalid"  # noqa: PT017


def _toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value if letter < "\ud800") + '"'
    return repr(value)


def test_the_steps_travel_as_json():
    steps = decode_steps(
        HEAD + 'steps=[{do="normalize",mean=[1,2,3],std=2}]\n' + OUT + 'steps=[{do="top_k",k=1}]'
    )
    assert msgspec.json.decode(msgspec.json.encode(steps), type=Processing) == steps


def test_the_page_names_every_step():
    page = (Path(__file__).parents[2] / "docs/processing.md").read_text()
    for do in module._EXAMPLES:
        assert f"| `{do}` |" in page
