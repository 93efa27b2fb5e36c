import dataclasses

import pytest

from hvdspark.data.fields import Field, natural


def fields(*keys, arguments=()):
    made = []
    for key in keys:
        role, _, index = key.rpartition("_")
        argument = arguments[int(index)] if arguments and role.startswith("feature") else ""
        made.append(Field(role, int(index), key, "float32", (2, 3), argument))
    return made


@pytest.mark.parametrize(
    ("keys", "role", "expected"),
    [
        (["feature_0", "label_0"], "feature", "feature_0"),
        (["feature_0", "label_0"], "label", "label_0"),
        (["feature_0"], "label", None),
        (["feature_0", "feature_1", "label_0"], "feature", ("feature_0", "feature_1")),
        (["feature_0", "feature_1", "features_mask_1"], "features_mask", (None, "features_mask_1")),
        (["feature_0", "features_mask_0"], "features_mask", "features_mask_0"),
        (["feature_0", "label_0", "label_1", "labels_mask_0"], "labels_mask", ("labels_mask_0", None)),
        (["feature_0", "feature_1", "label_0", "label_1", "weight_0"], "weight", "weight_0"),
    ],
)
def test_values_take_the_form_in_which_modules_take_them(keys, role, expected):
    assert natural(fields(*keys), role, keys) == expected


def test_named_inputs_make_a_dict():
    keys = ["feature_0", "feature_1", "label_0", "features_mask_1"]
    made = fields(*keys, arguments=("image", "text"))
    assert natural(made, "feature", keys) == {"image": "feature_0", "text": "feature_1"}
    assert natural(made, "features_mask", keys) == {"text": "features_mask_1"}
    assert natural(made, "label", keys) == "label_0"


def test_a_field_is_a_value():
    (field,) = fields("feature_0")
    assert (field.key, field.num_values) == ("feature_0", 6)
    assert dataclasses.replace(field, shape=()).num_values == 1
