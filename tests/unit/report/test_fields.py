import pytest

from greater_fast.report.fields import Fields


def test_values_of_the_type_asked_for_are_given():
    values = Fields(
        {"text": "a", "number": 1.5, "count": 3, "flag": True, "object": {"x": 1}}
        | {"list": ["a", 1, {"y": 2}], "interval": [0, 1.5]}
    )
    assert values.text("text") == "a"
    assert values.number("number") == 1.5
    assert values.count("count") == 3
    assert values.flag("flag")
    assert Fields({"x": [1, 2.0]}).counts("x") == (1, 2)
    assert [Fields({"x": x}).counts("x") for x in ([], 3, [1, "2"], [-1], None)] == [None] * 5
    assert values.object("object").number("x") == 1
    assert values.numbers("object") == {"x": 1.0}
    assert [one.number("y") for one in values.objects("list")] == [2.0]
    assert values.texts("list") == ["a"]
    assert values.texts("text") == ["a"]
    assert values.interval("interval") == (0.0, 1.5)


@pytest.mark.parametrize("value", [None, [], {}, "1", True, float("nan"), float("inf"), 10**400])
def test_a_number_of_another_type_or_size_is_none(value):
    assert Fields({"x": value}).number("x") is None
    assert Fields({"x": value}).count("x") is None
    assert Fields({"x": {"y": value}}).numbers("x") == {}


@pytest.mark.parametrize("value", [[1], [1, 2, 3], [2, 1], [0, None], "12", {"0": 1}])
def test_what_is_no_interval_is_none(value):
    assert Fields({"x": value}).interval("x") is None


@pytest.mark.parametrize("values", [None, 3, [1], "text"])
def test_what_is_no_object_is_an_empty_one(values):
    fields = Fields(values)
    assert not fields
    assert fields.text("x") is None
    assert fields.objects("x") == []
    assert fields.texts("x") == []
    assert not fields.flag("x")
    assert fields.count("x") is None
    assert not fields.object("x")


def test_a_count_is_whole_and_not_negative():
    assert [Fields({"x": x}).count("x") for x in (0, 2.0, 1.5, -1)] == [0, 2, None, None]
