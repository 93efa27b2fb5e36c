import subprocess
import sys


def test_staging_does_not_wait_for_torch():
    code = "import hvdspark.data.stage, sys; print([name for name in ('torch', 'pyspark') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert result.stdout.strip() == "[]", result.stderr
