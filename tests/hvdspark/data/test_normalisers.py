"""Normalisers: what scikit-learn's do, on arrays, tensors, DataSets and files."""

import numpy as np
import pytest
import torch

from hvdspark import ImagePreProcessingScaler, NormalizerMinMaxScaler, NormalizerStandardize
from hvdspark.data import DataSet, MultiDataSet, Normalizer
from hvdspark.errors import ConfigurationError, DataError, ModelError, StorageError, UnsupportedError

STANDARD, RANGE = NormalizerStandardize(), NormalizerMinMaxScaler(-1.0, 2.0)
KINDS = pytest.mark.parametrize("normalizer", [STANDARD, RANGE], ids=["standard", "range"])


def features(n=200, seed=0):
    """Features of very different scales, one constant, one constant but for rounding."""
    random = np.random.default_rng(seed)
    columns = [random.normal(0, 1, n), random.normal(1e5, 3, n), random.normal(-4, 1e-4, n), np.full(n, 7.0)]
    return np.stack([*columns, np.full(n, 0.1) + random.choice([0, 1e-17], n)], axis=1)


def scikit(normalizer):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    if isinstance(normalizer, NormalizerStandardize):
        return preprocessing.StandardScaler()
    return preprocessing.MinMaxScaler((normalizer.minimum, normalizer.maximum))


@KINDS
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_same_as_scikit_learn(normalizer, dtype):
    x, new = features().astype(dtype), features(50, seed=1).astype(dtype)
    rival = scikit(normalizer).fit(x.astype(np.float64))
    fitted = normalizer.fit(x)
    found = fitted.transform(new)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, rival.transform(new.astype(np.float64)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fitted.revert_features(fitted.transform(x)), x, rtol=1e-6, atol=1e-6)


@KINDS
def test_one_array_a_list_and_files_are_the_same(normalizer, tmp_path):
    x = features(101)
    pieces = DataSet(x).split(33)
    for i, piece in enumerate(pieces):
        piece.save(tmp_path / f"{i}.safetensors")
    whole = normalizer.fit(x).transform(x)
    given = [DataSet(x), torch.from_numpy(x), pieces, tmp_path, [tmp_path / f"{i}.safetensors" for i in range(4)]]
    for data in [*given, tmp_path / "0.safetensors"][:5]:
        np.testing.assert_allclose(normalizer.fit(data).transform(x), whole, rtol=1e-9, atol=1e-9)
    assert normalizer.fit(tmp_path / "0.safetensors") == normalizer.fit(pieces[0])
    assert normalizer.fit([DataSet(x[:0]), DataSet(x)]) == normalizer.fit(x)


def test_constant_features_become_zero_or_the_least():
    x = np.full((10, 2), [3.0, -1e8])
    assert STANDARD.fit(x).transform(x).tolist() == [[0, 0]] * 10
    assert RANGE.fit(x).transform(x).tolist() == [[-1, -1]] * 10
    assert STANDARD.fit(x).transform(x + 1).tolist() == [[1, 1]] * 10


def test_an_axis_of_features_counts_through_the_others():
    images = np.random.default_rng(0).normal([[[1.0]], [[50.0]], [[-9.0]]], 3.0, (20, 3, 8, 8))
    fitted = NormalizerStandardize(feature_axis=1).fit(images)
    found = fitted.transform(images)
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=(0, 2, 3)), 1, rtol=1e-12)
    assert fitted.feature_statistics.mean.shape == (3, 1, 1)
    halves = NormalizerStandardize(feature_axis=1).fit([DataSet(images[:9]), DataSet(images[9:, :, :, 3:])])
    assert halves.feature_statistics.count.ravel().tolist() == [9 * 64 + 11 * 40] * 3
    smaller = images[:, :, :4]
    np.testing.assert_allclose(fitted.transform(smaller), found[:, :, :4], rtol=1e-12)  # other lengths will do
    last = NormalizerStandardize(feature_axis=-1).fit(images.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(last.transform(images.transpose(0, 2, 3, 1)), found.transpose(0, 2, 3, 1), atol=1e-12)


@pytest.mark.parametrize("axis", [None, -1])
def test_masked_steps_do_not_count(axis):
    random = np.random.default_rng(0)
    x, mask = random.normal(5, 2, (30, 6, 2)), random.random((30, 6)) < 0.5
    mask[:, 5] = False
    filled = np.where(mask[..., None], x, np.nan)
    fitted = NormalizerStandardize(feature_axis=axis).fit(DataSet(filled, features_mask=mask.astype(np.float32)))
    seen = fitted.feature_statistics
    if axis is None:
        assert seen.count.tolist() == [[n, n] for n in mask.sum(axis=0)]
        np.testing.assert_allclose(seen.mean[:5], np.nanmean(filled[:, :5], axis=0), rtol=1e-12)
        assert (fitted.transform(x)[:, 5] == x[:, 5]).all()  # nothing is known of that step
        assert np.isfinite(NormalizerMinMaxScaler().fit(DataSet(filled, features_mask=mask)).transform(x)).all()
    else:
        np.testing.assert_allclose(seen.mean, x[mask].mean(axis=0, keepdims=True), rtol=1e-12)
        np.testing.assert_allclose(seen.variance, x[mask].var(axis=0, keepdims=True), rtol=1e-12)


@pytest.mark.parametrize("as_torch", [False, True])
@KINDS
def test_labels_are_normalised_on_request_and_reverted(normalizer, as_torch):
    import dataclasses

    x, y = features(60), np.random.default_rng(1).normal(300, 20, (60, 2))
    data = DataSet(*map(torch.from_numpy, (x, y))) if as_torch else DataSet(x, y)
    fitted = dataclasses.replace(normalizer, fit_labels=True).fit(data)
    found = fitted.transform(data)
    np.testing.assert_allclose(np.asarray(found.labels), scikit(normalizer).fit_transform(y), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.asarray(fitted.revert_labels(found.labels)), y, rtol=1e-12)
    assert normalizer.fit(data).transform(data).labels is data.labels
    with pytest.raises(ModelError, match="not fitted to labels"):
        normalizer.fit(data).revert_labels(y)


def test_images_need_no_fitting():
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    scaler = ImagePreProcessingScaler(-1.0, 1.0)
    assert scaler.fit(pixels) is scaler
    np.testing.assert_allclose(scaler.transform(pixels), [[-1, 1], [-0.6, -0.2]], rtol=1e-6)
    np.testing.assert_allclose(scaler.revert_features(scaler.transform(pixels)), pixels, atol=1e-4)
    assert ImagePreProcessingScaler(max_bits=16).transform(np.array([65535.0])).tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_tensors_become_float32(dtype):
    x = torch.randint(0, 2 if dtype == torch.bool else 50, (40, 3), generator=torch.Generator().manual_seed(0)).to(
        dtype
    )
    found = STANDARD.fit(x).transform(x)
    assert found.dtype == torch.float32
    assert found.double().std(dim=0, unbiased=False).tolist() == pytest.approx([1] * 3, rel=1e-5)


class TestFiles:
    @pytest.mark.parametrize(
        "made",
        [
            STANDARD,
            NormalizerStandardize(feature_axis=1).fit(features()),
            NormalizerMinMaxScaler(0, 5, fit_labels=True).fit(DataSet(features(), features()[:, 0]).split(30)),
            ImagePreProcessingScaler(0, 2, 12),
        ],
        ids=["unfitted", "standard", "range", "image"],
    )
    def test_and_back(self, made, tmp_path):
        digest = made.save(tmp_path / "n")
        for kind in (Normalizer, type(made)):
            assert kind.load(tmp_path / "n", expected_checksum=digest) == made

    def test_damage_and_other_kinds_are_refused(self, tmp_path):
        path = tmp_path / "n"
        STANDARD.fit(features()).save(path)
        with pytest.raises(StorageError, match="holds a NormalizerStandardize, not a NormalizerMinMaxScaler"):
            NormalizerMinMaxScaler.load(path)
        whole = path.read_bytes()
        for place in range(0, len(whole), 7):
            damaged = bytearray(whole)
            damaged[place] ^= 4
            path.write_bytes(damaged)
            with pytest.raises(StorageError, match=str(path)):
                Normalizer.load(path)

    def test_equality(self):
        fitted = STANDARD.fit(features())
        assert fitted == STANDARD.fit(features())
        assert fitted != STANDARD.fit(features(seed=3))
        assert fitted != STANDARD
        assert NormalizerMinMaxScaler(-1.0, 2.5) != RANGE


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: STANDARD.fit(DataSet(np.ones((0, 2)))), DataError, "no example to fit on"),
        (lambda: STANDARD.fit([]), DataError, "no example to fit on"),
        (lambda: STANDARD.fit([np.ones(3)]), UnsupportedError, "not a ndarray"),
        (lambda: STANDARD.fit(MultiDataSet([np.ones(3)])), UnsupportedError, "not MultiDataSet"),
        (lambda: STANDARD.fit("not there"), StorageError, "not there"),
        (lambda: STANDARD.fit([DataSet(np.ones((1, n))) for n in (2, 3)]), DataError, r"features: .*\[2\] and \[3\]"),
        (lambda: STANDARD.fit(np.array([[np.nan]])), DataError, "features: NaN or infinity stands in 1 rows"),
        (lambda: NormalizerStandardize(fit_labels=True).fit(np.ones(2)), DataError, "needs labels"),
        (lambda: NormalizerStandardize(feature_axis=0), ConfigurationError, "feature_axis"),
        (lambda: NormalizerStandardize(feature_axis=2).fit(np.ones((2, 2))), DataError, "feature_axis=2 is none of"),
        (lambda: NormalizerStandardize(feature_axis=-2).fit(np.ones((2, 2))), DataError, "feature_axis=-2 is none of"),
        (lambda: NormalizerMinMaxScaler(1.0, 1.0), ConfigurationError, "minimum 1.0 must lie below"),
        (lambda: ImagePreProcessingScaler(max_bits=0), ConfigurationError, "max_bits"),
        (lambda: STANDARD.transform(np.ones((2, 2))), ModelError, "not fitted to features"),
        (lambda: STANDARD.fit(np.ones((2, 3))).transform(np.ones((3, 2))), ModelError, r"shape \[3\], these are \[2\]"),
        (lambda: STANDARD.fit(np.ones((2, 2)), spark=object()), ConfigurationError, "only files are measured"),
        (lambda: STANDARD.fit(DataSet(np.ones((4, 2)), None, np.ones((4, 3)))), DataError, "features_mask of shape"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, text):
    with pytest.raises(error, match=text):
        call()
