"""The documented switch to PostgreSQL, on a real server that this test starts."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from qwenft_assets.config import PROJECT_ROOT
from qwenft_assets_tests.commands import make_deployment

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), Path())
SAMPLE = (
    "dagster", "asset", "materialize", "-m", "qwenft_assets.definitions",
    "--select", "source_sample", "--partition", "local_reports",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BIN / "initdb").is_file(), reason="no PostgreSQL: apt-get install postgresql"
    ),
]


def as_server_user(*command):
    """The server refuses to be root; Debian's package brings a user for it."""
    if os.getuid() != 0:
        return [str(part) for part in command]
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *map(str, command)]


@pytest.fixture
def postgres_url(tmp_path_factory):
    # Not below pytest's own folder, which the server's user may not enter; and short, for the socket.
    folder = Path(f"/tmp/qwenft-postgres-{os.getpid()}")  # noqa: S108
    folder.mkdir(mode=0o755)
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    password = folder / "password"
    password.write_text("canarypassword\n", encoding="utf-8")
    password.chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        BIN / "initdb",
        "-D",
        data,
        "-U",
        "qwenft",
        "-A",
        "scram-sha-256",
        f"--pwfile={password}",
    ]
    subprocess.run(as_server_user(*command), check=True, capture_output=True, cwd="/")
    server = subprocess.Popen(
        as_server_user(BIN / "postgres", "-D", data, "-p", port, "-k", folder, "-h", "127.0.0.1"),
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        ready = [BIN / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"postgresql+psycopg2://qwenft:canarypassword@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(timeout=30)
        shutil.rmtree(folder)


def test_runs_and_figures_are_kept_in_postgres_alone(tmp_path, postgres_url):
    psycopg2 = pytest.importorskip("psycopg2", reason="the extra postgres is not installed")
    deployment = make_deployment(tmp_path, "unused")
    home = tmp_path / "dagster_home"
    # The two lines of its header: append the file, name the server.
    switch = (PROJECT_ROOT / "dagster_home" / "postgres.yaml").read_text(encoding="utf-8")
    with (home / "dagster.yaml").open("a", encoding="utf-8") as settings:
        settings.write(switch)
    where = {"QWENFT_POSTGRES_URL": postgres_url}
    answer = deployment.run(*SAMPLE, more_environment=where)
    assert answer.returncode == 0, answer.stderr
    shown = deployment.run("qwenft", "status", "--json", more_environment=where)
    assert shown.returncode == 0, shown.stderr
    assert '"of": "local_reports"' in shown.stdout
    connection = psycopg2.connect(postgres_url.replace("+psycopg2", ""))
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT status FROM runs")
        assert cursor.fetchall() == [("SUCCESS",)]
        cursor.execute("SELECT count(*) FROM event_logs WHERE asset_key IS NOT NULL")
        assert cursor.fetchone()[0] >= 1
    connection.close()
    assert list(home.rglob("*.db")) == []
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if b"canarypassword" in path.read_bytes()] == []
