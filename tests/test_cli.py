"""What all commands share: they start anywhere, end quietly, and print commands that can be pasted."""

import errno
import importlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, assert_fails, make_dataset, run_script

import prepare_dataset
from coinkit import cli
from coinkit.backbones import pretrained_resnet50
from coinkit.report import check_report

BEST = "coin_classifier_custom_best.pth"
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")
SCRIPTS = ("prepare_dataset", "coin_classifier_custom", "predict", "evaluate", "export", "make_demo_coins")

# Runs a script as a notebook or IDLE does, with streams that can write and nothing else; or without any, as a service.
ODD_STREAMS = """
import io, runpy, sys

class Stream(io.TextIOBase):
    def __init__(self, file):
        self.file = file
    def write(self, text):
        return self.file.write(text)

kind, *sys.argv = sys.argv[1:]
streams = (sys.stdout, sys.stderr)
if kind == "notebook":
    sys.stdout, sys.stderr = map(Stream, streams)
elif kind == "none":
    sys.stdout = sys.stderr = None
else:
    sys.stdout.close()
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@POSIX
@pytest.mark.parametrize("kind", ["notebook", "none", "closed"])
def test_every_script_runs_in_a_notebook_and_without_streams(images, trained, tmp_path, kind):
    make_dataset(tmp_path / "data")
    driver = tmp_path / "driver.py"
    driver.write_text(ODD_STREAMS)
    commands = {
        "prepare_dataset": ["--output", "prepared"],
        "coin_classifier_custom": ["--data", "data", "--num-epochs", 1, *SMALL],
        "predict": [trained / "coin_dataset/test/g06", "--checkpoint", trained / BEST, "--device", "cpu"],
        "evaluate": ["--data", trained / "coin_dataset", "--checkpoint", trained / BEST, "--device", "cpu"],
        "export": ["--weights-only", "--checkpoint", trained / BEST, "--photos", trained / "coin_dataset/test"],
        "make_demo_coins": ["--grades", "g06", "ms65", "--per-grade", 1, "--output", "demo"],
    }
    for script in commands if kind == "notebook" else ("prepare_dataset", "predict"):
        result = run_script(driver, kind, ROOT / f"{script}.py", *commands[script], cwd=tmp_path)
        assert result.returncode == 0, (script, result.stderr)
        assert "Traceback" not in result.stderr and bool(result.stdout) == (kind == "notebook"), script
    written = ("prepared", BEST, "report/index.html", "coin_classifier.pth", "demo")
    assert all((tmp_path / name).exists() for name in (written if kind == "notebook" else written[:1]))


@POSIX
def test_stdout_that_was_closed_by_the_shell_is_no_error(trained):
    command = f"{sys.executable} {ROOT / 'predict.py'} coin_dataset/test/g06 --device cpu >&-"
    result = subprocess.run(["sh", "-c", command], cwd=trained, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@POSIX
@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_starts_is_quiet(tmp_path, script):
    (tmp_path / "numpy.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / f"{script}.py"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as process:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == -signal.SIGINT


@POSIX
def test_ctrl_c_while_processes_start_stops_the_command_and_is_hidden_from_them():
    is_blocked = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with pytest.raises(KeyboardInterrupt), cli.ctrl_c_blocked():
        os.kill(os.getpid(), signal.SIGINT)
        assert subprocess.run([sys.executable, "-c", is_blocked], capture_output=True).stdout == b"True\n"
    with cli.worker_pool(1) as pool:
        assert signal.SIGINT in pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_ctrl_c_tells_how_to_go_on():
    code = "from coinkit import cli\ndef main(): raise KeyboardInterrupt\ncli.run(main, to_go_on='the same again')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "\nStopped. To go on: the same again.\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_package_is_told_in_a_line(script):
    command = [sys.executable, "-S", ROOT / f"{script}.py"]  # without installed packages
    result = subprocess.run(command, capture_output=True, text=True)
    assert_fails(result, "Error: no package", "Activate the environment", "pip install -r requirements.txt")
    assert result.stderr.count("\n") == 1


def test_a_library_leaves_ctrl_c_as_it_is():
    check = "import signal, predict; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    result = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "True\n", result.stderr


@POSIX
def test_a_command_that_is_printed_can_be_pasted(images, tmp_path):
    result = run_script("prepare_dataset.py", "--output", "my coins/it's a set", cwd=tmp_path)
    (line,) = [line for line in result.stdout.splitlines() if "Next: " in line]
    assert shlex.split(line.partition("Next: ")[2])[-2:] == ["--data", "my coins/it's a set"]
    options = ("--data", "my coins/it's a set", "--runs", "my runs", "--output", "my model", "--num-epochs", 1)
    result = run_script("coin_classifier_custom.py", *SMALL, *options, cwd=tmp_path)
    assert "tensorboard --logdir='my runs'\n" in result.stdout, result.stderr
    assert f"--checkpoint 'my model/{BEST}' photo.jpg" in result.stdout


def test_a_closed_pipe_is_known_on_windows_too(monkeypatch):
    broken, invalid = BrokenPipeError(errno.EPIPE, "Broken pipe"), OSError(errno.EINVAL, "Invalid argument")
    assert cli.is_closed_pipe(broken) and not cli.is_closed_pipe(invalid)
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.is_closed_pipe(invalid) and not cli.is_closed_pipe(OSError(errno.EINVAL, "Invalid argument", "a?.jpg"))


@pytest.mark.parametrize(
    ("platform", "path", "expected"),
    [
        ("linux", "a/b.pth", "a/b.pth"),
        ("linux", "my coins", "'my coins'"),
        ("darwin", "$x", "'$x'"),
        ("linux", Path("-my set"), "'./-my set'"),
        ("linux", Path("~"), "'./~'"),
        ("win32", r"C:\coins\b.pth", r"C:\coins\b.pth"),
        ("win32", r"C:\my coins", r'"C:\my coins"'),
        ("win32", "a&b", '"a&b"'),
    ],
)
def test_paths_are_quoted_for_the_shell_of_the_platform(monkeypatch, platform, path, expected):
    monkeypatch.setattr(sys, "platform", platform)
    assert cli.quoted(path) == expected


def test_a_tilde_is_the_home_folder(images, trained, tmp_path):
    environment = os.environ | {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    (tmp_path / "here").mkdir()
    run = {"cwd": tmp_path / "here", "env": environment}
    result = run_script("prepare_dataset.py", "--source=~/images", "--output=~/coins", **run)
    assert result.returncode == 0 and (tmp_path / "coins/manifest.csv").exists(), result.stderr
    shutil.copy(trained / BEST, tmp_path)
    options = ("~/images/ms65/*/*2.jpg", f"--checkpoint=~/{BEST}", "--csv=~/table.csv", "--device", "cpu")
    result = run_script("predict.py", *options, **run)
    assert result.returncode == 0 and (tmp_path / "table.csv").exists(), result.stderr
    assert not list((tmp_path / "here").iterdir())


def test_path_options_of_any_parser_know_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    parser = cli.ArgumentParser("")
    parser.add_argument_group("group").add_argument("--data", type=Path, nargs="+")
    monkeypatch.setattr(sys, "argv", ["script.py", "--data", "~/a", "b~"])
    assert parser.parse_args().data == [tmp_path / "a", Path("b~")]
    torch.save({"fc.bias": torch.ones(2)}, tmp_path / "imagenet.pth")
    assert pretrained_resnet50("~/imagenet.pth")["fc.bias"].sum() == 2  # --pretrained is no path: it may be "download"


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("coin_classifier_custom", ["--epoch", "5"], "--epoch: did you mean --epochs?"),
        ("coin_classifier_custom", ["--learning_rate=0.1"], "--learning_rate: did you mean --learning-rate?"),
        ("coin_classifier_custom", ["--batchsize", "2"], "--batchsize: did you mean --batch-size?"),
        ("coin_classifier_custom", ["-num-epochs", "5"], "-num-epochs: did you mean --num-epochs?"),
        ("prepare_dataset", ["--outputs", "x"], "--outputs: did you mean --output?"),
        ("predict", ["photo.jpg", "--check", "x.pth"], "--check: did you mean --checkpoint?"),
        ("evaluate", ["--datas", "x"], "--datas: did you mean --data?"),
        ("export", ["--weight-only"], "--weight-only: did you mean --weights-only?"),
        ("make_demo_coins", ["--seeds", "1"], "--seeds: did you mean --seed?"),
        ("evaluate", ["--xyz"], "--xyz"),
        ("evaluate", ["photo.jpg"], "photo.jpg"),
    ],
)
def test_a_mistyped_flag_is_answered_with_the_nearest(monkeypatch, capsys, script, flags, message):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
    with pytest.raises(SystemExit) as exit_info:
        importlib.import_module(script).main()
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == f"Error: unknown argument {message} (--help explains the options)\n"


@pytest.mark.parametrize(
    ("script", "flag", "message"),
    [
        ("coin_classifier_custom", "--classes", "--classes belongs to evaluate.py, predict.py, prepare_dataset.py"),
        ("predict", "--preset", "--preset belongs to coin_classifier_custom.py"),
    ],
)
def test_a_flag_of_another_script_is_answered_with_its_name(monkeypatch, capsys, script, flag, message):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", flag, "five"])
    with pytest.raises(SystemExit):
        importlib.import_module(script).main()
    assert capsys.readouterr().err == f"Error: {message} (--help explains the options)\n"


@POSIX
def test_an_output_that_is_a_file_is_said_in_words(images, trained, tmp_path):
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    data, checkpoint = trained / "coin_dataset", trained / BEST
    commands = {
        "prepare_dataset.py": ["--output", "taken/set"],
        "coin_classifier_custom.py": ["--data", data, "--output", "taken"],
        "evaluate.py": ["--data", data, "--checkpoint", checkpoint, "--output", "taken/report"],
        "export.py": [
            "--weights-only",
            "--checkpoint",
            checkpoint,
            "--photos",
            data / "test",
            "--output",
            "taken/model.pth",
        ],
        "predict.py": [data / "test/g06", "--checkpoint", checkpoint, "--heatmap", "taken"],
        "make_demo_coins.py": ["--output", "taken"],
    }
    for script, options in commands.items():
        result = run_script(script, *options, cwd=tmp_path)
        assert_fails(result, "taken", "not a folder")
        assert script != "predict.py" or not result.stdout  # before any work
        assert "[Errno" not in result.stderr
    for check in (
        lambda: prepare_dataset.check_output(tmp_path / "loop", images),
        lambda: check_report(tmp_path / "loop"),
    ):
        with pytest.raises(cli.UserError, match="loop is no"):
            check()
    (tmp_path / "folder.csv").mkdir()
    options = (data / "test/g06", "--checkpoint", checkpoint, "--csv", "folder.csv")
    assert_fails(run_script("predict.py", *options, cwd=tmp_path), "folder.csv is a folder")
    assert (tmp_path / "taken").read_text() == "mine"
