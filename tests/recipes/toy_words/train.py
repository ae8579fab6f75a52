"""Trains the toy model with all that a real training does for its run: progress, checkpoints, exact resume, stop."""

import ctypes
import errno
import json
import os
import random
import resource
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from recipekit.metrics import accuracy, macro_f1
from recipekit.predictor import write_artifact_header
from recipekit.run import Data, Progress, Run, Stopped
from recipekit.spec import BadData, Row
from tests.recipes.toy_words.model import Model
from tests.recipes.toy_words.spec import SPEC, Config


def fit(config: Config, data: Data, run: Run) -> None:
    """Write a trained model to run.artifact, resuming from the newest checkpoint if there is one."""
    data.check(SPEC)
    run.numerics(lambda: {"dtype": "float64", "threads": 1})
    rows = [{"text": str(row["text"]), "label": str(row["label"])} for row in data.train]
    model, done = _resume(run.latest_checkpoint(), sorted({row["label"] for row in rows}))
    started = reported = time.monotonic()
    losses: list[float] = []
    for step in range(done + 1, config.steps + 1):
        if step == config.fail_at_step:
            raise RuntimeError(f"failed on purpose at step {step} (fail_at_step)")
        if step - done == config.breaks_after + 1:
            _break(config.breaks_by)
        # A step's rows depend on (seed, step) alone: a resumed training needs no random state.
        batch = random.Random(f"{config.seed}/{step}").choices(rows, k=config.batch_rows)
        losses.append(model.learn(batch, config.learning_rate))
        time.sleep(config.step_seconds)
        last = step == config.steps
        evaluated = last or step % config.evaluate_every == 0
        if evaluated or time.monotonic() - reported >= 1:
            reported = time.monotonic()
            run.report(
                Progress(
                    step=step,
                    total_steps=config.steps,
                    epoch=step * config.batch_rows / len(rows),
                    loss=sum(losses) / len(losses),
                    learning_rate=config.learning_rate,
                    rows_per_second=(step - done) * config.batch_rows / max(reported - started, 1e-6),
                    metrics=_evaluate(model, data.validation) if evaluated else {},
                )
            )
            losses.clear()
        if run.stop_requested or last or step % config.checkpoint_every == 0:
            run.save_checkpoint(step, lambda folder, step=step: _save(folder, model, step))  # type: ignore[misc]
        if run.stop_requested and not last:
            raise Stopped(f"stopped after step {step}")
    model.save(run.artifact / "model.json")
    write_artifact_header(run.artifact, SPEC, config)


def _break(how: str) -> None:
    """As training processes do: the kernel kills one, native code fails, exits, or never gives the interpreter back."""
    print("last words", flush=True)
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(7)
        case "hang":
            ctypes.PyDLL(None).sleep(1000)
        case "memory":
            resource.setrlimit(resource.RLIMIT_AS, (64 << 20, resource.RLIM_INFINITY))
            bytearray(1 << 30)
        case "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "device":
            raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")
        case "rows":
            raise BadData("these rows teach nothing")


def _evaluate(model: Model, rows: Sequence[Row]) -> dict[str, float]:
    truth = [str(row["label"]) for row in rows]
    scores = [model.scores(str(row["text"]).lower().split()) for row in rows]
    predicted = [max(s, key=s.__getitem__) for s in scores]
    return {"accuracy": accuracy(truth, predicted), "macro_f1": macro_f1(truth, predicted)}


def _save(folder: Path, model: Model, step: int) -> None:
    model.save(folder / "model.json")
    (folder / "state.json").write_text(json.dumps({"step": step}))


def _resume(checkpoint: Path | None, labels: list[str]) -> tuple[Model, int]:
    if checkpoint is None:
        return Model(labels), 0
    return Model.load(checkpoint / "model.json"), int(json.loads((checkpoint / "state.json").read_text())["step"])
