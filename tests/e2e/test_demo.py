"""`make demo`, as a newcomer sees it."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from services.cli.identity import descendants, identify, marked
from tests.support.plane import COMMAND
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.e2e, pytest.mark.kilo, pytest.mark.timeout(400)]

STORY_S = 90.0


def test_a_real_agent_survives_the_death_of_its_container(tmp_path: Path) -> None:
    """The whole story holds, is told in plain words, and takes less than 90 s."""
    environ = os.environ | {"TMPDIR": str(tmp_path)}

    done = subprocess.run(
        [*COMMAND, "demo"], env=environ, capture_output=True, text=True, timeout=300
    )

    told = done.stdout
    assert done.returncode == 0, told + done.stderr
    [ready] = re.findall(r"the mayor is ready: session (ses_\w+)", told)
    assert f"the same session: {ready}" in told
    assert re.search(r"all \d\d messages are equal", told)
    assert "the model was shown all 3 earlier prompts" in told
    [took_s] = re.findall(r"whole story: ([\d.]+) s", told)
    assert STORY_S > float(took_s)
    assert "\x1b" not in told
    assert [] == list(tmp_path.iterdir())


def test_ctrl_c_cleans_up(tmp_path: Path) -> None:
    """Interrupted in the middle, no process and no file of the demo stays."""
    environ = os.environ | {"TMPDIR": str(tmp_path), "DEMO_MARK": tmp_path.name}
    with subprocess.Popen(
        [*COMMAND, "demo"],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A job that a shell runs in the background is started deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as demo:
        found = identify(demo.pid)
        assert found is not None
        wait_until_sync(lambda: len(descendants([found])) >= 8, limit_s=300)
        processes = descendants([found])

        demo.send_signal(signal.SIGINT)

        assert demo.wait(60) != 0
    assert [] == [one for one in processes if one.alive]
    assert [] == marked("DEMO_MARK", tmp_path.name)
    assert [] == list(tmp_path.iterdir())
