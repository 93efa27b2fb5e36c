"""The report: one quiet file, every text escaped."""

import pytest

from hvdspark.stats import RankStats, TrainingStats


@pytest.fixture
def stats():
    rank = RankStats(
        rank=0,
        host="<script>alert(1)</script>",
        steps=1234,
        exchanges=1234,
        examples=40_000,
        bytes_sent=123_456,
        dense_bytes=7_000_000,
        density=1.5e-3,
        threshold=2e-4,
        clipped_mass=0.0,
        seconds={"load": 0.5, "encode": 12.25},
    )
    return TrainingStats(
        title="Net & <b>",
        history=({"epoch": 0, "score": 0.25, "seconds": 3.0}, {"epoch": 1, "score": 0.125, "seconds": 2.0}),
        ranks=(rank,),
        options={"combine": "<i>mean</i>"},
        staging_s=1.0,
        training_s=5.0,
        total_s=6.0,
    )


def test_texts_are_escaped_and_figures_readable(stats, tmp_path):
    page = (tmp_path / "r.html").read_text() if stats.to_html(str(tmp_path / "r.html")) else ""
    for markup in ("<script", "<b>", "<i>"):
        assert markup not in page
    for figure in ("1,234", "40,000", "123,456", "0.0015", "0.0002", "12.25", "0.125"):
        assert f">{figure}<" in page, figure
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_notebooks_get_the_tables_alone(stats):
    assert stats._repr_html_().lstrip().startswith("<h2>Epochs")
