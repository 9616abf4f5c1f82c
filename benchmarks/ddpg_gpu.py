"""DDPG updates a second on a device, records drawn and gathered there, beside CleanRL on the same device.

::

    python benchmarks/ddpg_gpu.py [--json] [--device cuda] [--batch 256] [--rounds 10]

Ours replays a CUDA graph that holds the draw as well. CleanRL's update is that of ``ddpg.py``, its networks
and one ready batch on the device: it draws nothing. Where there is no CUDA device ``--device cpu`` runs the
same code without a graph; that figure says nothing about a GPU.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import ddpg
import torch
from interleaved import Result, arguments, median_ratio, off_stdout, seconds_in_turns, show
from replay_peers import episodes

from tspace_core.agents import DDPG
from tspace_core.agents.ddpg_graph import DDPGGraph
from tspace_core.agents.device_replay import DeviceReplay
from tspace_core.storage.replay import build_replay

ROWS = 100_000
UPDATES = 200
"""Updates between two looks at the device."""


def ours(device: str, batch: int, folder: Path) -> Callable[[], object]:
    replay = build_replay(folder / "replay", episodes(ROWS))
    hyper = ddpg.HYPER.model_copy(update={"batch_size": batch})
    agent = DDPG(hyper, ddpg.STATE_DIM, ddpg.ACTION_DIM)
    agent.fit_normaliser(replay.state_mean, replay.state_std)
    graph = DDPGGraph(agent, DeviceReplay(replay, device))
    return lambda: graph.run(UPDATES, seed=1)


def cleanrl(device: str, batch: int) -> Callable[[], object]:
    update = ddpg.cleanrl(batch, device)

    def run() -> None:
        for _ in range(UPDATES):
            update()
        if device != "cpu":
            torch.cuda.synchronize(device)

    return run


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.set_defaults(rounds=10)
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} finds no CUDA device: run this on a machine with one")
    torch.set_num_threads(1)
    with off_stdout(), tempfile.TemporaryDirectory() as folder:
        subjects = {
            "tspace": ours(options.device, options.batch, Path(folder)),
            "cleanrl": cleanrl(options.device, options.batch),
        }
        seconds = seconds_in_turns(subjects, rounds=options.rounds, calls=1)
    what = f"DDPG updates on {options.device}, batch {options.batch}"
    results = [
        Result(what, name, UPDATES / statistics.median(times), "updates/s", "higher")
        for name, times in seconds.items()
    ]
    ratio = median_ratio(seconds["cleanrl"], seconds["tspace"])
    results.append(Result(f"{what}, times as fast as cleanrl", "tspace", ratio, "x", "higher"))
    show(results, as_json=options.json, title="DDPG updates on a device, medians over interleaved rounds")


if __name__ == "__main__":
    main()
