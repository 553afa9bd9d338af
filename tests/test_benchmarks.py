"""The page of the benchmarks says what the rows say that it is written from."""

import json
from pathlib import Path

from benchmarks import record, run

ROOT = Path(__file__).parents[1]


def test_the_page_is_what_the_rows_say():
    written = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert written == run.page(ROOT / record.ROWS), "run `python -m benchmarks.run --page-only`"


def test_rows_measured_again_replace_their_own_and_keep_where_the_others_are_from(tmp_path):
    old = [{"case": "a", "seconds": 1.0, "measured": "before"}, {"case": "b", "seconds": 2.0, "measured": "before"}]
    record.save(old, tmp_path, "floor-jax")
    record.merge([{"case": "a", "seconds": 3.0}], tmp_path, "floor-jax", "case")
    kept, new = record.load(tmp_path, "floor-jax")
    assert kept == old[1]
    assert new["seconds"] == 3.0 and new["measured"].endswith(record.processor())
    assert json.loads((tmp_path / "floor-jax.json").read_text()) == [kept, new]
